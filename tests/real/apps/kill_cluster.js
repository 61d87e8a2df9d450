// The same as kill_app.py, by a node cluster: node kill_cluster.js PORT
"use strict";
const cluster = require("cluster");
const fs = require("fs");
const http = require("http");

// The kernel hands connections to workers: node's own primary loses those that it hands to a worker that has just died.
cluster.schedulingPolicy = cluster.SCHED_NONE;

const WORKERS = 4;
const PIECES = 8;

if (cluster.isPrimary) {
  for (let number = 0; number < WORKERS; number++) cluster.fork();
  cluster.on("exit", () => cluster.fork());
} else {
  const events = fs.openSync(process.env.EVENTS, "a");
  const contentOf = (size, id) => {
    const fill = "x".repeat(size - `{"id": ${id}, "fill": ""}`.length);
    return Buffer.from(`{"id": ${id}, "fill": "${fill}"}`);
  };
  http
    .createServer((request, response) => {
      const url = new URL(request.url, "http://app");
      const [size, id] = [Number(url.searchParams.get("size")), Number(url.searchParams.get("id"))];
      request.resume();
      request.on("end", () => {
        fs.writeSync(events, `executed ${id}\n`);
        const content = contentOf(size, id);
        const fields = { "Content-Type": "application/json" };
        if (url.pathname === "/sized") fields["Content-Length"] = size;
        response.writeHead(200, fields);
        const step = Math.ceil(size / PIECES);
        const piece = (start) => {
          if (start >= size) return response.end();
          response.write(content.subarray(start, start + step));
          setTimeout(piece, 1, start + step);
        };
        piece(0);
      });
    })
    .listen(Number(process.argv[2]), "127.0.0.1");
}
