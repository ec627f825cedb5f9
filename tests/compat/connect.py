"""Apache Kafka Connect moves a file through a broker: its file source writes the lines to a topic, its file sink writes them to another file.

    connect.py coati|kafka [--cores N] [--only standalone|distributed]

What it has moved must be the same bytes; only where a worker was killed may lines come again.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "lib")]
import broker
import wire
from cases import check

JARS = broker.DEPS / "java" / "connect"
LINES = 100_000
DEADLINE_SECONDS = 90


def until(what: str, holds, worker=None):
    """Waits for what others bring about; what `holds` answers as soon as it is something."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (answer := holds()):
        check(worker is None or worker.process.poll() is None, f"{what}: the worker has ended: {worker and worker.log()}")
        check(time.monotonic() < deadline, f"{what}, but not in time: {worker and worker.log()}")
        time.sleep(0.05)
    return answer


class Worker:
    """One process of Connect. Starting it anew keeps its address."""

    def __init__(self, server: broker.Broker, name: str, settings: dict[str, str]):
        self.directory = server.directory
        self.address = f"127.0.0.1:{broker.free_port()}"
        self.log_path = self.directory / f"{name}.log"
        self.properties = self.file(name, {
            "bootstrap.servers": server.bootstrap, "listeners": f"http://{self.address}", "offset.flush.interval.ms": "500",
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter",
            "consumer.metadata.max.age.ms": "1000", "consumer.auto.offset.reset": "earliest"} | settings)
        self.process: subprocess.Popen | None = None

    def file(self, name: str, settings: dict[str, str]) -> str:
        path = self.directory / f"{name}.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        return str(path)

    def start(self, main: str, *arguments: str):
        with open(self.log_path, "ab") as log:
            command = broker.java_command(f"org.apache.kafka.connect.cli.{main}", self.properties, *arguments, jars=JARS)
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.directory)

    def end(self, number=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(DEADLINE_SECONDS)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")[-3000:]

    def ask(self, path: str, body: dict | None = None):
        """The worker's own interface; nothing while it is not there or busy with its group."""
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"http://{self.address}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            check(error.code in (404, 409, 500), f"{path}: {error} {error.read()[:500]}")
            return None
        except OSError:
            return None


class Files:
    """What goes in and what has come out."""

    def __init__(self, server: broker.Broker, name: str):
        self.topic, self.source, self.sink = name, server.directory / f"{name}.in", server.directory / f"{name}.out"
        self.count = 0
        self.source.touch()
        with wire.Connection(server.bootstrap) as connection:
            connection.ask("CreateTopics", 7, {"timeoutMs": 30000, "Topics": [{"Name": name, "NumPartitions": 1, "ReplicationFactor": 1}]})

    def write(self, count: int):
        # The source counts characters, and goes on at that byte: only ASCII survives a restart of it.
        with open(self.source, "a", encoding="ascii") as file:
            file.writelines(f"line {i} {'x' * (i % 90)}\n" for i in range(self.count, self.count + count))
        self.count += count

    def source_settings(self) -> dict[str, str]:
        return {"name": f"{self.topic}-source", "connector.class": "FileStreamSource", "tasks.max": "1", "file": str(self.source),
                "topic": self.topic, "batch.size": "5000"}

    def sink_settings(self) -> dict[str, str]:
        return {"name": f"{self.topic}-sink", "connector.class": "FileStreamSink", "tasks.max": "1", "file": str(self.sink), "topics": self.topic}

    def moved(self) -> int:
        return os.stat(self.sink).st_size if self.sink.exists() else 0

    def is_equal(self) -> bool:
        """All is there; more than that is an error."""
        wanted, moved = os.stat(self.source).st_size, self.moved()
        check(moved <= wanted, f"{moved} bytes have come of {wanted}")
        if moved == wanted:
            check(self.source.read_bytes() == self.sink.read_bytes(), "other bytes have come")
        return moved == wanted

    def missing(self) -> set[bytes]:
        return set(self.source.read_bytes().split(b"\n")) - set(self.sink.read_bytes().split(b"\n"))


def standalone(server: broker.Broker):
    """One worker; stopped in order and started again it goes on where it was."""
    files = Files(server, "standalone")
    worker = Worker(server, "standalone", {"offset.storage.file.filename": str(server.directory / "standalone.offsets")})
    connectors = [worker.file(settings["name"], settings) for settings in (files.source_settings(), files.sink_settings())]
    try:
        for count in (LINES, 10_000):
            files.write(count)
            worker.start("ConnectStandalone", *connectors)
            until("all lines have come", files.is_equal, worker)
            worker.end()
        check(files.is_equal(), "nothing has come twice")
    finally:
        worker.end(signal.SIGKILL)


def distributed(server: broker.Broker):
    """Two workers. The one that moves the lines is killed; the other goes on for it, and later it comes back."""
    files = Files(server, "distributed")
    settings = {"group.id": "connect", "scheduled.rebalance.max.delay.ms": "1000", "session.timeout.ms": "6000", "heartbeat.interval.ms": "500",
                "rebalance.timeout.ms": "10000"}
    for store in ("config", "offset", "status"):
        settings |= {f"{store}.storage.topic": f"connect-{store}", f"{store}.storage.replication.factor": "1"}
    settings |= {"offset.storage.partitions": "5", "status.storage.partitions": "5"}
    workers = [Worker(server, f"distributed-{number}", settings) for number in range(2)]
    one, other = workers

    def place(connector: str) -> str:
        """Which worker has the connector's running task."""
        status = (one if one.process.poll() is None else other).ask(f"/connectors/{connector}/status")
        return next((task["worker_id"] for task in status["tasks"] if task["state"] == "RUNNING"), "") if status else ""
    try:
        files.write(LINES // 2)
        for worker in workers:
            worker.start("ConnectDistributed")
        for wanted in (files.source_settings(), files.sink_settings()):
            until("a connector is taken", lambda: one.ask("/connectors", {"name": wanted["name"], "config": wanted}), one)
        places = [until("a task runs", lambda: place(settings["name"]), one) for settings in (files.source_settings(), files.sink_settings())]
        until("lines come", files.moved, one)
        busy = next(worker for worker in workers if worker.address == places[1])
        busy.end(signal.SIGKILL)
        files.write(LINES // 2)
        left = next(worker for worker in workers if worker is not busy)
        one, other = left, busy
        until("the other goes on", lambda: not files.missing(), left)
        busy.start("ConnectDistributed")
        until("the worker is back", lambda: busy.ask("/connectors"), busy)
        files.write(1000)
        until("all lines have come", lambda: not files.missing(), left)
    finally:
        for worker in workers:
            worker.end(signal.SIGKILL)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kind", choices=["coati", "kafka"])
    arguments.add_argument("--cores", type=int)
    arguments.add_argument("--only", choices=["standalone", "distributed"])
    options = arguments.parse_args()
    failed = 0
    with broker.Broker(options.kind, {"group.initial.rebalance.delay.ms": "500"}, options.cores) as server:
        for case in (standalone, distributed):
            if options.only in (None, case.__name__):
                began = time.monotonic()
                try:
                    case(server)
                    print(f"pass {options.kind} connect: {case.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
                except Exception as error:  # Whatever it is, it is this case's result.
                    failed += 1
                    print(f"FAIL {options.kind} connect: {case.__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
