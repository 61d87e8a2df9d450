"""A PostgreSQL cluster of the test's own, stopped and started under the app."""

import glob
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .processes import free_port


def _binary(name):
    """Debian keeps the server's programs out of PATH, a folder per version."""
    found = shutil.which(name) or max(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), default=None)
    assert found, f"{name} is missing: tests/install.sh installs PostgreSQL"
    return found


class Postgres:
    """One cluster in a temporary folder, on a loopback port."""

    def __init__(self):
        # Not pytest's folder: PostgreSQL refuses to run as root, and its user may not enter there.
        self.home = Path(tempfile.mkdtemp(prefix="seawall-postgres-"))
        self.port = free_port()
        self._as = []
        if os.geteuid() == 0:
            shutil.chown(self.home, "postgres", "postgres")
            self._as = ["runuser", "-u", "postgres", "--"]
        self._run("initdb", "--pgdata", self.home / "data", "--auth=trust", "--username=seawall", "--no-sync")
        self.start()

    @property
    def conninfo(self):
        return f"host=127.0.0.1 port={self.port} user=seawall dbname=postgres connect_timeout=5"

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.home} -c fsync=off"
        self._control("start", "--log", self.home / "log", "--options", options)

    def stop(self):
        """Stops as a crash does: no client is told, no work is finished."""
        self._control("stop", "--mode=immediate")

    def end(self):
        """Stops if it runs, and removes the cluster."""
        if (self.home / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def _control(self, *arguments):
        self._run("pg_ctl", "--pgdata", self.home / "data", "--wait", "--silent", *arguments)

    def _run(self, name, *arguments):
        command = [*self._as, _binary(name), *map(str, arguments)]
        # Into a file: the server that pg_ctl leaves behind would keep a pipe open.
        with tempfile.TemporaryFile() as output:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.home, timeout=60
            ).returncode
            output.seek(0)
            assert code == 0, f"{name} failed: {output.read().decode(errors='replace')}"
