"""Real servers, each in a temporary folder on the attempts' address, started and stopped under the drivers."""

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from attempts import HOST, start


class Server:
    """A real server of its own in a temporary folder, started and stopped under the drivers."""

    def __init__(self, program):
        self.program = program
        self.home = Path(tempfile.mkdtemp(prefix="seawall-drivers-"))
        self.process = None
        # Servers refuse to run as root.
        self.user = []
        if os.geteuid() == 0:
            self.user = ["runuser", "-u", "nobody", "--"]
            shutil.chown(self.home, "nobody")

    def run(self, *line):
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [*self.user, *map(str, line)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.home
            )
            output.seek(0)
            if done.returncode:
                raise RuntimeError(f"{line[0]} failed: {output.read().decode(errors='replace')}")

    def end(self):
        shutil.rmtree(self.home, ignore_errors=True)


class Postgres(Server):
    port = 5432
    ways = {"crashed": "immediate", "shut down": "fast"}
    bugs = {
        "duplicate key": "insert into orders values (1)",
        "syntax error": "selec 1",
        "no such table": "select * from carts",
    }
    statement = "select 1"

    @staticmethod
    def find():
        return max(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"), default=shutil.which("pg_ctl"))

    def __init__(self, program):
        super().__init__(program)
        self.folder = Path(program).parent
        self.run(self.folder / "initdb", "--pgdata", "data", "--auth=trust", "--username=postgres", "--no-sync")
        self.start()
        for line in (
            "create role app login",
            "create database shop owner app",
        ):
            self.sql("postgres", "postgres", line)
        self.sql("app", "shop", "create table orders (id int primary key); insert into orders values (1)")

    def sql(self, user, database, statement):
        self.run(self.folder / "psql", "-h", HOST, "-p", self.port, "-U", user, "-d", database, "-c", statement)

    def start(self, more=""):
        options = f"-p {self.port} -c listen_addresses={HOST} -c unix_socket_directories={self.home} {more}"
        self.run(self.program, "--pgdata=data", "--wait", "--silent", "--log=log", "--options", options, "start")

    def stop(self, way="immediate"):
        self.run(self.program, "--pgdata=data", "--wait", "--silent", f"--mode={way}", "stop")

    @contextlib.contextmanager
    def full(self):
        self.stop()
        self.start("-c max_connections=4 -c superuser_reserved_connections=3 -c max_wal_senders=0")
        holder = start("python", "psycopg", HOST, self.port, "select 1", "--pause")
        holder.stdout.readline()
        yield
        holder.communicate("\n")
        self.stop()
        self.start()

    @contextlib.contextmanager
    def leaving(self):
        """Waits for its last client, and takes no other."""
        holder = start("python", "psycopg", HOST, self.port, "select 1", "--pause")
        holder.stdout.readline()
        self.run(self.program, "--pgdata=data", "--no-wait", "--silent", "--mode=smart", "stop")
        time.sleep(1)
        yield
        holder.communicate("\n")
        while (self.home / "data/postmaster.pid").exists():
            time.sleep(0.1)
        self.start()

    def conditions(self):
        return {"full": self.full, "leaving": self.leaving}


class Redis(Server):
    port = 6379
    ways = {"crashed": "-KILL", "shut down": "-TERM"}
    bugs = {"wrong type": "LPUSH cart one", "unknown command": "GTE cart", "not a number": "INCR cart"}
    statement = "GET cart"

    @staticmethod
    def find():
        return shutil.which("redis-server")

    def __init__(self, program):
        super().__init__(program)
        self.start()

    def start(self, *more):
        self.process = subprocess.Popen(
            [*self.user, self.program, "--bind", HOST, "--port", str(self.port), "--save", "", *more],
            stdout=subprocess.DEVNULL,
            cwd=self.home,
        )
        while True:
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port)) as client:
                client.sendall(b"SET cart one\r\n")
                client.recv(100)
                return
            time.sleep(0.05)

    def stop(self, way="-TERM"):
        # runuser passes no signal on: the server is its child.
        family = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        subprocess.run(["kill", way, *(family or [str(self.process.pid)])], check=True)
        self.process.wait()

    @contextlib.contextmanager
    def full(self):
        self.stop()
        self.start("--maxclients", "1")
        with socket.create_connection((HOST, self.port)) as holder:
            holder.sendall(b"PING\r\n")
            holder.recv(100)
            yield
        self.stop()
        self.start()

    @contextlib.contextmanager
    def without_master(self):
        self.stop()
        self.start("--replicaof", HOST, "1", "--replica-serve-stale-data", "no")
        yield
        self.stop()
        self.start()

    def conditions(self):
        return {"full": self.full, "without master": self.without_master}


class Mariadb(Server):
    port = 3306
    ways = {"crashed": "-KILL", "shut down": "-TERM"}
    bugs = {
        "duplicate key": "insert into orders values (1)",
        "syntax error": "selec 1",
        "no such table": "select * from carts",
    }
    statement = "select 1"

    @staticmethod
    def find():
        return shutil.which("mariadbd")

    def __init__(self, program):
        super().__init__(program)
        share = Path(program).parents[1] / "share/mysql"
        (self.home / "data").mkdir()
        self.share = share
        self.options = ["--no-defaults", f"--datadir={self.home}/data", f"--lc-messages-dir={share}"]
        self.options += [f"--character-sets-dir={share}/charsets", "--skip-grant-tables"]
        if self.user:
            shutil.chown(self.home / "data", "nobody")
        system = "".join((share / f"mysql_system_tables{part}.sql").read_text() for part in ("", "_data"))
        # In this mode a statement ends with its line.
        lines = ["create database mysql;", "use mysql;", system, "create database shop;", "use shop;"]
        lines += ["create table orders (id int primary key);", "insert into orders values (1);"]
        (self.home / "first.sql").write_text("\n".join(lines) + "\n")
        self.run("sh", "-c", '"$@" < first.sql', "sh", program, *self.options, "--bootstrap")
        self.start()

    def start(self, *more):
        self.process = subprocess.Popen(
            [*self.user, self.program, *self.options, f"--bind-address={HOST}", f"--port={self.port}"]
            + [f"--socket={self.home}/socket", *more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.home,
        )
        while True:
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port)) as client:
                client.recv(100)
                return
            time.sleep(0.05)

    stop = Redis.stop

    @contextlib.contextmanager
    def full(self):
        self.stop()
        self.start("--max-connections=10")
        holders = [start("python", "pymysql", HOST, self.port, "select 1", "--pause") for _ in range(11)]
        for holder in holders:
            holder.stdout.readline()
        yield
        for holder in holders:
            holder.communicate("\n")
        self.stop()
        self.start()

    def conditions(self):
        return {"full": self.full}


SERVERS = {"postgres": Postgres, "redis": Redis, "mysql": Mariadb}
