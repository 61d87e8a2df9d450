"""Starts one attempt of one driver, in its own language, as a process of its own."""

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
# Not 127.0.0.1: here the default ports are free, and nothing else is met.
HOST = "127.0.0.77"


def command(language, driver):
    if language == "python":
        return [VENV / "bin/python", HERE / "app.py", driver]
    program = {"node": "app.js", "php": "app.php", "ruby": "app.rb", "java": "App.java"}[language]
    return [language, HERE / program, driver]


def start(language, driver, host, port, *more):
    line = [*command(language, driver), host, port, *more]
    # The drivers' own logs go nowhere; credentials and settings of the machine are not asked.
    kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "PHP_INI_SCAN_DIR", "GEM_PATH", "RUBYLIB", "CLASSPATH")
    env = {key: os.environ[key] for key in kept if key in os.environ}
    return subprocess.Popen(
        [str(part) for part in line],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env | {"HOME": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true", "NODE_NO_WARNINGS": "1"},
    )
