// One attempt of one Node driver, as an app would make it: app.js DRIVER HOST PORT [STATEMENT] [--pause]
//
// Prints what the error says, as JSON: its message, its name with it, its stack, and what JSON.stringify
// makes of it, which many an app answers. With --pause the connection is made first, "connected" printed,
// and a line awaited before the statement is run.

"use strict";

const PATIENCE = 1500; // milliseconds that a driver waits

// Some drivers tell a broken connection by an event alone: the first error counts, wherever it appears.
let fail;
const failed = new Promise((_, reject) => (fail = reject));
failed.catch(() => {});
process.on("uncaughtException", fail);
process.on("unhandledRejection", fail);

const drivers = {
  async pg(host, port) {
    const { Client } = require("pg");
    const client = new Client({ host, port, user: "app", database: "shop", connectionTimeoutMillis: PATIENCE });
    client.on("error", () => {}); // without it the process ends; the next query tells it again
    await client.connect();
    return (statement) => client.query(statement);
  },
  async pg_pool(host, port) {
    const { Pool } = require("pg");
    const pool = new Pool({ host, port, user: "app", database: "shop", connectionTimeoutMillis: PATIENCE });
    pool.on("error", () => {});
    const client = await pool.connect();
    return (statement) => client.query(statement);
  },
  async mysql2(host, port) {
    const mysql = require("mysql2/promise");
    const connection = await mysql.createConnection({
      host, port, user: "app", database: "shop", connectTimeout: PATIENCE,
    });
    return (statement) => connection.query(statement);
  },
  async ioredis(host, port) {
    const Redis = require("ioredis");
    const client = new Redis({ host, port, maxRetriesPerRequest: 1, connectTimeout: PATIENCE, commandTimeout: 3000 });
    client.on("error", () => {});
    await client.get("cart");
    return (statement) => client.call(...statement.split(" "));
  },
  async ioredis_error(host, port) {
    const Redis = require("ioredis");
    const client = new Redis({ host, port, connectTimeout: PATIENCE });
    client.on("error", fail);
    await client.get("cart");
  },
  async ioredis_offline(host, port) {
    const Redis = require("ioredis");
    const client = new Redis({ host, port, enableOfflineQueue: false, connectTimeout: PATIENCE });
    client.on("error", () => {});
    await client.get("cart");
  },
  async redis(host, port) {
    const { createClient } = require("redis");
    const client = createClient({ socket: { host, port, connectTimeout: PATIENCE, reconnectStrategy: false } });
    client.on("error", () => {});
    await client.connect();
    return (statement) => client.sendCommand(statement.split(" "));
  },
  async mongodb(host, port) {
    const { MongoClient } = require("mongodb");
    const client = new MongoClient(`mongodb://${host}:${port}`, {
      serverSelectionTimeoutMS: PATIENCE, connectTimeoutMS: 700, socketTimeoutMS: 700,
    });
    await client.db("shop").collection("orders").findOne({});
  },
  async mongoose(host, port) {
    const mongoose = require("mongoose");
    await mongoose.connect(`mongodb://${host}:${port}/shop`, { serverSelectionTimeoutMS: PATIENCE });
  },
  async mongoose_buffering(host, port) {
    const mongoose = require("mongoose");
    mongoose.connect(`mongodb://${host}:${port}/shop`).catch(() => {});
    const Order = mongoose.model("Order", new mongoose.Schema({}, { bufferTimeoutMS: 500 }));
    await Order.findOne({});
  },
  async kafkajs(host, port) {
    const { Kafka, logLevel } = require("kafkajs");
    const kafka = new Kafka({
      brokers: [`${host}:${port}`], logLevel: logLevel.NOTHING, connectionTimeout: 700, requestTimeout: 700,
      retry: { retries: 1, initialRetryTime: 50 },
    });
    const producer = kafka.producer();
    await producer.connect();
    await producer.send({ topic: "orders", messages: [{ value: "one" }] });
  },
  async amqplib(host, port) {
    const amqp = require("amqplib");
    const connection = await amqp.connect(`amqp://${host}:${port}`, { timeout: PATIENCE });
    await connection.createChannel();
  },
  async elasticsearch(host, port) {
    const { Client } = require("@elastic/elasticsearch");
    const client = new Client({ node: `http://${host}:${port}`, requestTimeout: 700, maxRetries: 1 });
    await client.search({ index: "orders", query: { match_all: {} } });
  },
  async s3(host, port) {
    const { S3Client, PutObjectCommand } = require("@aws-sdk/client-s3");
    const client = new S3Client({
      endpoint: `http://${host}:${port}`, region: "eu-west-1", forcePathStyle: true, maxAttempts: 1,
      credentials: { accessKeyId: "none", secretAccessKey: "none" },
      requestHandler: { connectionTimeout: 700, requestTimeout: 700, throwOnRequestTimeout: true },
    });
    await client.send(new PutObjectCommand({ Bucket: "invoices", Key: "2026/1.pdf", Body: "one" }));
  },
  async dns(host) {
    await require("dns").promises.lookup(host);
  },
  async dns_resolve(host) {
    const { Resolver } = require("dns").promises;
    await new Resolver({ timeout: 500, tries: 1 }).resolve4(host);
  },
  async fetch(host, port) {
    await fetch(`http://${host}:${port}/charge`, { signal: AbortSignal.timeout(PATIENCE) });
  },
  async http(host, port) {
    await new Promise((resolve, reject) => {
      const request = require("http").get({ host, port, path: "/charge", timeout: PATIENCE }, resolve);
      request.on("error", reject).on("timeout", () => request.destroy(new Error("timeout")));
    });
  },
};

const packages = {
  pg_pool: "pg", ioredis_error: "ioredis", ioredis_offline: "ioredis", mongoose_buffering: "mongoose",
  elasticsearch: "@elastic/elasticsearch", s3: "@aws-sdk/client-s3",
};
const builtin = ["dns", "dns_resolve", "fetch", "http"];

async function main() {
  const [name, host, port, statement] = process.argv.slice(2).filter((argument) => argument !== "--pause");
  const driver = builtin.includes(name) ? "node" : packages[name] || name;
  const told = { driver };
  told.version = driver === "node"
    ? process.versions.node
    : JSON.parse(require("fs").readFileSync(`${__dirname}/node_modules/${driver}/package.json`)).version;
  const attempt = async () => {
    const run = await drivers[name](host, Number(port));
    if (process.argv.includes("--pause")) {
      console.log("connected");
      await new Promise((resolve) => process.stdin.once("data", resolve));
    }
    if (statement) await run(statement);
  };
  const late = new Promise((_, reject) => setTimeout(() => reject(null), 12000));
  try {
    await Promise.race([attempt(), failed, late]);
  } catch (error) {
    if (error) {
      told.message = error.message;
      told.repr = String(error);
      told.trace = error.stack;
      told.json = JSON.stringify(error);
    }
  }
  process.stdout.write(JSON.stringify(told) + "\n", () => process.exit(0));
}

main();
