#!/usr/bin/env python3
"""Collects how real drivers word a failed dependency: writes wording.json beside it.

    tests/drivers/wording.py [LANGUAGE | DRIVER ...]

Every driver meets, on loopback: a port where nobody listens, a listener that closes at once, one that never
answers, and a name that does not resolve (in .invalid, RFC 6761 section 6.4). PostgreSQL, and Redis and
MariaDB where their servers are in PATH, are really stopped under a connection; the mistakes of an app
(a duplicate key, a syntax error) are collected too, as what must not be taken for a failed dependency.
What documentation.json says of drivers that are not installed here is added.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from attempts import HERE, HOST, VENV, start
from servers import SERVERS

SILENT = 60  # seconds after which an attempt counts as one that never ends

# driver: (what it talks to, its port)
PYTHON = {
    "psycopg": ("postgres", 5432),
    "psycopg2": ("postgres", 5432),
    "asyncpg": ("postgres", 5432),
    "sqlalchemy": ("postgres", 5432),
    "sqlalchemy_pymysql": ("mysql", 3306),
    "pymysql": ("mysql", 3306),
    "mysql_connector": ("mysql", 3306),
    "redis": ("redis", 6379),
    "redis_asyncio": ("redis", 6379),
    "pymongo": ("mongodb", 27017),
    "kafka_python": ("kafka", 9092),
    "kafka_python_send": ("kafka", 9092),
    "confluent_kafka": ("kafka", 9092),
    "confluent_kafka_delivery": ("kafka", 9092),
    "confluent_kafka_callback": ("kafka", 9092),
    "aiokafka": ("kafka", 9092),
    "pika": ("rabbitmq", 5672),
    "elasticsearch": ("elasticsearch", 9200),
    "boto3": ("s3", 9000),
    # Any other service, which no rule names.
    "requests": (None, 8080),
    "httpx": (None, 8080),
    "aiohttp": (None, 8080),
    "urllib": (None, 8080),
    "socket": (None, 8080),
}
NODE = {
    "pg": ("postgres", 5432),
    "pg_pool": ("postgres", 5432),
    "mysql2": ("mysql", 3306),
    "ioredis": ("redis", 6379),
    "ioredis_error": ("redis", 6379),
    "ioredis_offline": ("redis", 6379),
    "redis": ("redis", 6379),
    "mongodb": ("mongodb", 27017),
    "mongoose": ("mongodb", 27017),
    "mongoose_buffering": ("mongodb", 27017),
    "kafkajs": ("kafka", 9092),
    "amqplib": ("rabbitmq", 5672),
    "elasticsearch": ("elasticsearch", 9200),
    "s3": ("s3", 9000),
    "dns": (None, 8080),
    "dns_resolve": (None, 8080),
    "fetch": (None, 8080),
    "http": (None, 8080),
}
# Met only where the language and these are installed; otherwise what was seen of them stays.
PHP = {
    "pdo_pgsql": ("postgres", 5432),
    "pgsql": ("postgres", 5432),
    "pdo_mysql": ("mysql", 3306),
    "mysqli": ("mysql", 3306),
    "redis": ("redis", 6379),
    "mongodb": ("mongodb", 27017),
    "amqp": ("rabbitmq", 5672),
    "curl": (None, 8080),
}
RUBY = {
    "pg": ("postgres", 5432),
    "mysql2": ("mysql", 3306),
    "redis": ("redis", 6379),
    "mongo": ("mongodb", 27017),
    "bunny": ("rabbitmq", 5672),
    "net-http": (None, 8080),
}
JAVA = {
    "postgresql": ("postgres", 5432),
    "mariadb": ("mysql", 3306),
    "http": (None, 8080),
}
LANGUAGES = {"python": PYTHON, "node": NODE, "php": PHP, "ruby": RUBY, "java": JAVA}
REGISTRIES = {"python": "PyPI", "node": "npm", "php": "PHP", "ruby": "gem", "java": "Java"}
TRACED = ("refused", "silent", "unresolved", "crashed", "mistake: duplicate key", "mistake: wrong type")
INSPECTED = 8192  # characters of a text: more is not looked at
SITUATIONS = ("refused", "closed", "silent", "unresolved")
NAMES = {"s3": "s3.invalid", None: "payments.invalid"}  # otherwise db.invalid


def told(process, language, driver, line=None):
    """What an attempt printed last; nothing if it never ends, or the driver is not installed."""
    try:
        output, _ = process.communicate(line, timeout=SILENT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        print(f"   {language} {driver}: no end within {SILENT} s", file=sys.stderr)
        return {}
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        print(f"   {language} {driver}: told nothing: {output!r}", file=sys.stderr)
        return {}
    return json.loads(lines[-1])


def entries(found, registry, product, situation):
    """One entry per shape that says anything; what was said before is not repeated."""
    seen = set()
    for shape in ("message", "repr", "json", "trace"):
        if shape == "trace" and situation not in TRACED:
            continue
        text = neutral(found.get(shape) or "").strip()[:INSPECTED]
        if text in seen or text in ("", "{}"):
            continue
        seen.add(text)
        yield {
            "driver": f"{registry} {found['driver']}",
            "version": found["version"],
            "product": product,
            "situation": situation,
            "shape": shape,
            "source": "seen",
            "text": text,
        }


PLACES = [
    (str(VENV), "/app/.venv"),
    (str(HERE), "/app"),
    (sysconfig.get_paths()["stdlib"], "/usr/lib/python3"),
    (os.path.realpath(sysconfig.get_paths()["stdlib"]), "/usr/lib/python3"),
]
CHANGING = [
    (r"0x[0-9a-f]{6,}", "0x7f0000000000"),
    (r"(?m)(?:^|(?<=[\"\s(\[]))/[^\s\"]*?(?=/usr/(?:share|lib)/)", ""),
    (r"\b[0-9a-f]{24}\b", "65f000000000000000000000"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "00000000-0000-4000-8000-000000000000"),
    (r"\b(3[2-9]|[45]\d)\d{3}\b(?= ms|\))", "40000"),
    (r"\d+\.\d{4,}", "1.5"),
    (r"127\.0\.0\.1:\d{5}", "127.0.0.1:40000"),
    (r'"(lastUpdateTime|retryTime)":\d+', r'"\1":1'),
]


def neutral(text):
    """Without what differs from one machine and one run to the next."""
    for place, instead in PLACES:
        text = text.replace(place, instead)
    for pattern, instead in CHANGING:
        text = re.sub(pattern, instead, text)
    return text


@contextlib.contextmanager
def listener(port, situation):
    """Something on the port that closes every connection at once, or keeps it and never says a word."""
    with socket.create_server((HOST, port), backlog=64) as server:
        kept = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    if situation == "closed":
                        connection.close()
                    else:
                        kept.append(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield
        # Wakes the thread that waits in accept.
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in kept:
            connection.close()


def attempt(language, driver, product, port, situation):
    host = NAMES.get(product, "db.invalid") if situation == "unresolved" else HOST
    found = told(start(language, driver, host, port), language, driver)
    if "message" not in found:
        return []
    return list(entries(found, REGISTRIES[language], product, situation))


def loopback(wanted):
    """Every driver in every situation; those of one situation share the listeners."""
    attempts = [
        (language, driver, *told)
        for language, drivers in LANGUAGES.items()
        for driver, told in drivers.items()
        if not wanted or driver in wanted or language in wanted
        if language == "python" or shutil.which(language)
    ]
    asks_only = [one for one in attempts if one[1].startswith("dns")]
    for situation in SITUATIONS:
        print(f"== {situation}", file=sys.stderr)
        met = [one for one in attempts if situation == "unresolved" or one not in asks_only]
        with contextlib.ExitStack() as stack:
            if situation in ("closed", "silent"):
                for port in sorted({port for *_, port in attempts}):
                    stack.enter_context(listener(port, situation))
            with ThreadPoolExecutor(4) as pool:
                for found in pool.map(lambda one: attempt(*one, situation), met):
                    yield from found


def servers(wanted):
    """Real servers that are stopped under a connection, and that refuse what an app got wrong."""
    for product, kind in SERVERS.items():
        program = kind.find()
        if not program:
            print(f"== no server for {product}: left out", file=sys.stderr)
            continue
        drivers = [
            (language, driver)
            for language, drivers in (("python", PYTHON), ("node", NODE))
            for driver, (to, _) in drivers.items()
            if to == product and driver not in ("ioredis_error", "ioredis_offline")
            if not wanted or driver in wanted or language in wanted
        ]
        if not drivers:
            continue
        print(f"== a real {product}: {program}", file=sys.stderr)
        server = kind(program)
        try:
            for language, driver in drivers:
                registry = REGISTRIES[language]
                for bug, statement in kind.bugs.items():
                    found = told(start(language, driver, HOST, kind.port, statement), language, driver)
                    if "message" in found:
                        yield from entries(found, registry, product, f"mistake: {bug}")
                for way, how in kind.ways.items():
                    process = start(language, driver, HOST, kind.port, kind.statement, "--pause")
                    if process.stdout.readline() != "connected\n":
                        process.communicate()
                        continue
                    server.stop(how)
                    time.sleep(0.3)  # an event loop may hear of it before the statement, as in an idle app
                    found = told(process, language, driver, "\n")
                    server.start()
                    yield from entries(found, registry, product, way)
            for condition, manager in server.conditions().items():
                with manager():
                    for language, driver in drivers:
                        found = told(start(language, driver, HOST, kind.port, kind.statement), language, driver)
                        if "message" in found:
                            yield from entries(found, REGISTRIES[language], product, condition)
        finally:
            with contextlib.suppress(Exception):
                server.stop()
            server.end()


# Whole texts that fit any product: the driver does not tell more, so no rule can. With what they name.
NODE_TRACE = r"(\n    at .*(node:|/app/app\.js|/pg-pool/).*)*"  # no line of it is a driver's, or only of its pool
TELL_LESS = [
    ("dns", r"((Error|ConnectionError|Connection error): )?getaddrinfo ENOTFOUND db\.invalid" + NODE_TRACE),
    ("dns", r'\{"errno":-3008,"code":"ENOTFOUND","syscall":"getaddrinfo","hostname":"db\.invalid"(,"fatal":true)?\}'),
    ("dns", r"\[Errno -2\] Name or service not known|gaierror\(-2, 'Name or service not known'\)"),
    # asyncpg, pg, mysql2, amqplib: no answer in time
    (None, r"TimeoutError\(\)|(Error: )?timeout expired|(Error: )?connect ETIMEDOUT" + NODE_TRACE),
    # redis-py 8 has its own repr; its words, ioredis's and node-redis's
    (None, r"network:\w+|Connection closed by server\.|(Error: )?Command timed out|(Error: )?The client is closed"),
    (None, r"(Error: )?Socket closed unexpectedly|Connection lost( \(ECONNRESET\))?"),
    # mysql2 without the code, which its JSON has
    (None, r"(Error: )?Too many connections"),
    # bunny; PHP amqp
    (None, r"detected a network failure: .*|Socket error: could not connect to host\."),
    # elasticsearch for Python and for Node
    (None, r"Connection timed out|ConnectionTimeout\('Connection timed out during request'\)"),
    (None, r"(TimeoutError: )?Request timed out"),
    (None, r"ConnectionError\(\"\('Connection aborted\.', .*"),
    # kafkajs
    (None, r"Closed connection|Broker not connected"),
    # The AWS SDK for Node tells neither service nor host
    (None, r"(Error: )?connect ECONNREFUSED 127\.0\.0\.77:9000" + NODE_TRACE),
    (None, r"(TimeoutError: )?(socket hang up|@smithy/node-http-handler - \[ERROR\].*)" + r"(\n    at .*)*"),
    (None, r'\{[^{}]*"\$metadata":\{"attempts":1,"totalRetryDelay":0\}\}'),
    # A broken connection of any Node driver; mysql2, ioredis
    (None, r"((Connection)?Error: )?(write EPIPE|read ECONNRESET)"),
    (None, r'\{"errno":-\d+,"code":"(EPIPE|ECONNRESET)","syscall":"\w+"\}'),
    (None, r'\{"fatal":true\}|\{"command":\{.*\}\}'),
    # phpredis and mysqli word both alike; pgjdbc
    (None, r"Connection refused|The connection attempt failed\.|Connection attempt timed out\."),
    ("dns", r"php_network_getaddresses: getaddrinfo for db\.invalid failed: Name or service not known"),
    # fetch of Node has the cause apart
    (None, r"(TypeError: )?fetch failed" + NODE_TRACE),
]


def named(entry):
    """The rule that must match."""
    product, situation = entry["product"], entry["situation"]
    if situation.startswith("mistake: "):
        return None
    for name, pattern in TELL_LESS:
        if re.fullmatch(pattern, entry["text"]) and "s3.invalid" not in entry["text"]:
            return name
    if product is None and situation == "unresolved":
        return "dns"
    return product


def install():
    if not (VENV / "bin/pip").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin/pip", "install", "--quiet", "--requirement", HERE / "requirements.txt"], check=True)
    if not (HERE / "node_modules").exists():
        subprocess.run(["npm", "--prefix", HERE, "ci", "--silent", "--ignore-scripts", "--no-audit"], check=True)


def main():
    install()
    wanted = set(sys.argv[1:])
    found = [*loopback(wanted), *servers(wanted)]
    for entry in found:
        entry["dependency"] = named(entry)
    target = HERE / "wording.json"
    # What was not met now stays as it was.
    met = {entry["driver"] for entry in found}
    if target.exists():
        before = json.loads(target.read_text())
        found += [entry for entry in before if entry["source"] == "seen" and entry["driver"] not in met]
    found += json.loads((HERE / "documentation.json").read_text())
    # The same words in another situation say nothing new.
    unique = {(entry["driver"], entry["shape"], entry["text"]): entry for entry in reversed(found)}
    order = sorted(reversed(unique.values()), key=lambda entry: (entry["source"] != "seen", entry["driver"]))
    lines = [json.dumps(entry, ensure_ascii=False) for entry in order]
    target.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
