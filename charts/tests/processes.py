"""Runs programs and servers for a test, on free loopback ports, and ends each of them."""

import glob
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

# Generous for a loaded machine; nothing is measured.
DEADLINE = 60


def gateway_binary():
    path = Path(os.environ.get("GATEWAY_BIN", "")).absolute()
    if not os.environ.get("GATEWAY_BIN") or not path.is_file():
        raise AssertionError(f"no gateway at GATEWAY_BIN={os.environ.get('GATEWAY_BIN')}: cargo build -p gateway")
    return str(path)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def status(port, path, headers=None):
    """The status of the response, or None without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers or {})
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


class Process:
    """A running program whose output is kept for the message of a failure."""

    def __init__(self, test, command, **options):
        self.log = tempfile.TemporaryFile()
        self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **options)
        test.addCleanup(self.end)

    def output(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-4000:]

    def until(self, what, holds):
        deadline = time.monotonic() + DEADLINE
        while not holds():
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{what}: not so, exit code {self.child.returncode}\n{self.output()}")
            time.sleep(0.02)

    def stop(self, number=signal.SIGTERM):
        """The exit code after a signal."""
        self.child.send_signal(number)
        return self.child.wait(DEADLINE)

    def end(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        self.log.close()


def directory(test, owner=None):
    path = tempfile.mkdtemp()
    test.addCleanup(shutil.rmtree, path)
    if owner:
        shutil.chown(path, owner)
    return path


def redis(test):
    """Starts a Redis for the test; returns its URL."""
    if not shutil.which("redis-server"):
        raise AssertionError("no redis-server: apt-get install redis-server")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = Process(test, command, cwd=directory(test))

    def answers():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    server.until("Redis answers", answers)
    return f"redis://127.0.0.1:{port}"


def postgres(test):
    """Starts a PostgreSQL for the test; returns its URL. It refuses to run as root."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        raise AssertionError("no PostgreSQL: apt-get install postgresql")
    binaries = found[-1]
    root = os.geteuid() == 0
    options = {"user": "postgres", "group": "postgres", "extra_groups": []} if root else {}
    data = directory(test, "postgres" if root else None)
    create = [f"{binaries}/initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"]
    subprocess.run(create, cwd="/", check=True, capture_output=True, **options)
    port = free_port()
    flags = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
    server = Process(test, [f"{binaries}/postgres", "-D", data, "-p", str(port), *flags], cwd="/", **options)
    # Stops without waiting for its clients, and stops its own children.
    test.addCleanup(lambda: server.stop(signal.SIGQUIT) if server.child.poll() is None else None)
    ready = [f"{binaries}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    server.until("PostgreSQL answers", lambda: subprocess.run(ready, check=False).returncode == 0)
    return f"postgres://postgres@127.0.0.1:{port}/postgres"
