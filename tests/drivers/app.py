"""One attempt of one Python driver, as an app would make it: app.py DRIVER HOST PORT [STATEMENT] [--pause]

Prints what the error says, as JSON: its message, its repr, its trace. With --pause the connection is made
first, "connected" printed, and a line awaited before the statement is run.
"""

import asyncio
import importlib.metadata
import json
import sys
import traceback

PATIENCE = 2  # seconds that a driver waits: the smallest that libpq takes


def psycopg(host, port):
    import psycopg

    connection = psycopg.connect(
        host=host, port=port, user="app", dbname="shop", connect_timeout=PATIENCE, autocommit=True
    )
    return connection.execute


def psycopg2(host, port):
    import psycopg2

    connection = psycopg2.connect(host=host, port=port, user="app", dbname="shop", connect_timeout=PATIENCE)
    return connection.cursor().execute


def asyncpg(host, port):
    import asyncpg

    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(
        asyncpg.connect(host=host, port=port, user="app", database="shop", timeout=PATIENCE, ssl=False)
    )
    return lambda statement: loop.run_until_complete(connection.fetch(statement))


def sqlalchemy(host, port, scheme="postgresql+psycopg", **more):
    import sqlalchemy

    waits = {"connect_timeout": PATIENCE} | more
    engine = sqlalchemy.create_engine(f"{scheme}://app@{host}:{port}/shop", connect_args=waits)
    connection = engine.connect()
    return lambda statement: connection.execute(sqlalchemy.text(statement))


def sqlalchemy_pymysql(host, port):
    return sqlalchemy(host, port, "mysql+pymysql", read_timeout=PATIENCE)


def pymysql(host, port):
    import pymysql

    connection = pymysql.connect(
        host=host, port=port, user="app", database="shop", connect_timeout=PATIENCE, read_timeout=PATIENCE
    )
    return connection.cursor().execute


def mysql_connector(host, port):
    import mysql.connector

    connection = mysql.connector.connect(
        host=host, port=port, user="app", database="shop", connection_timeout=PATIENCE, use_pure=True
    )
    # A cursor does not keep its connection.
    return lambda statement: connection.cursor().execute(statement)


def redis(host, port):
    import redis

    client = redis.Redis(host=host, port=port, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
    client.ping()
    return lambda statement: client.execute_command(*statement.split())


def redis_asyncio(host, port):
    import redis.asyncio

    loop = asyncio.new_event_loop()
    client = redis.asyncio.Redis(host=host, port=port, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
    loop.run_until_complete(client.ping())
    return lambda statement: loop.run_until_complete(client.execute_command(*statement.split()))


def pymongo(host, port):
    import pymongo

    client = pymongo.MongoClient(host, port, serverSelectionTimeoutMS=1000, connectTimeoutMS=700, socketTimeoutMS=700)
    client.shop.orders.find_one()
    return client.shop.command


def kafka_python(host, port):
    import kafka

    producer = kafka.KafkaProducer(
        bootstrap_servers=f"{host}:{port}", bootstrap_timeout_ms=1500, max_block_ms=1500
    )
    producer.send("orders", b"one").get(timeout=PATIENCE)


def kafka_python_send(host, port):
    import kafka

    # Without a bootstrap in the constructor the first send waits.
    producer = kafka.KafkaProducer(bootstrap_servers=f"{host}:{port}", bootstrap_timeout_ms=0, max_block_ms=1500)
    producer.send("orders", b"one").get(timeout=PATIENCE)


def confluent_kafka(host, port):
    import confluent_kafka

    producer = confluent_kafka.Producer({"bootstrap.servers": f"{host}:{port}", "socket.timeout.ms": 1000})
    producer.list_topics("orders", timeout=PATIENCE)


def confluent_kafka_delivery(host, port):
    import confluent_kafka

    settings = {"bootstrap.servers": f"{host}:{port}", "message.timeout.ms": 1000, "socket.timeout.ms": 700}
    producer = confluent_kafka.Producer(settings)
    failed = []
    producer.produce("orders", b"one", on_delivery=lambda error, _message: failed.append(error))
    producer.flush(10)
    raise confluent_kafka.KafkaException(failed[0])


def confluent_kafka_callback(host, port):
    import confluent_kafka

    told = []
    producer = confluent_kafka.Producer({"bootstrap.servers": f"{host}:{port}", "error_cb": told.append})
    for _ in range(40):
        producer.poll(0.1)
        if told:
            raise confluent_kafka.KafkaException(told[0])


def aiokafka(host, port):
    import aiokafka

    async def send():
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=f"{host}:{port}", request_timeout_ms=1500)
        try:
            await producer.start()
        finally:
            await producer.stop()

    asyncio.run(send())


def pika(host, port):
    import pika

    connection = pika.BlockingConnection(
        pika.ConnectionParameters(
            host, port, socket_timeout=1, stack_timeout=PATIENCE, blocked_connection_timeout=PATIENCE
        )
    )
    return connection.channel().queue_declare


def elasticsearch(host, port):
    import elasticsearch

    client = elasticsearch.Elasticsearch(f"http://{host}:{port}", request_timeout=1, max_retries=1)
    client.search(index="orders", query={"match_all": {}})


def boto3(host, port):
    import boto3
    import botocore.config

    settings = botocore.config.Config(
        connect_timeout=1, read_timeout=1, retries={"max_attempts": 1}, s3={"addressing_style": "path"}
    )
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="eu-west-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=settings,
    )
    client.put_object(Bucket="invoices", Key="2026/1.pdf", Body=b"one")


def requests(host, port):
    import requests

    requests.get(f"http://{host}:{port}/charge", timeout=1)


def httpx(host, port):
    import httpx

    httpx.get(f"http://{host}:{port}/charge", timeout=1, trust_env=False)


def aiohttp(host, port):
    import aiohttp

    async def get():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(1)) as session:
            await session.get(f"http://{host}:{port}/charge")

    asyncio.run(get())


def urllib(host, port):
    import urllib.request

    urllib.request.urlopen(f"http://{host}:{port}/charge", timeout=1)


def socket(host, port):
    import socket

    socket.create_connection((host, port), timeout=1).recv(1)


DISTRIBUTIONS = {
    "mysql_connector": "mysql-connector-python",
    "psycopg2": "psycopg2-binary",
    "redis_asyncio": "redis",
    "kafka_python": "kafka-python",
    "kafka_python_send": "kafka-python",
    "confluent_kafka": "confluent-kafka",
    "confluent_kafka_delivery": "confluent-kafka",
    "confluent_kafka_callback": "confluent-kafka",
    "sqlalchemy_pymysql": "sqlalchemy",
}


def main():
    name, host, port, *rest = [argument for argument in sys.argv[1:] if argument != "--pause"]
    if name in ("urllib", "socket"):
        distribution, version = "python", ".".join(map(str, sys.version_info[:3]))
    else:
        distribution = DISTRIBUTIONS.get(name, name)
        version = importlib.metadata.version(distribution)
    told = {"driver": distribution, "version": version}
    try:
        run = globals()[name](host, int(port))
        if "--pause" in sys.argv:
            print("connected", flush=True)
            sys.stdin.readline()
        if rest and run:
            run(rest[0])
    except Exception as error:
        told |= {"message": str(error), "repr": repr(error), "trace": traceback.format_exc()}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
