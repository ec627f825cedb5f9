"""Starts a broker for a test: Apache Kafka 4.4 or Coati, on a free port of 127.0.0.1 with its own data folder.

Ready means: it has logged `Kafka Server started`. Nothing here sleeps; every wait ends with a line, an exit
or the deadline. As a program it starts one and waits for Enter:

    python3 tests/lib/broker.py coati|kafka [key=value…]
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPS = ROOT / "tests" / ".deps"
JARS = DEPS / "java" / "jars"
TOOL_JARS = DEPS / "java" / "tools"
JAVA_CONFIG = ROOT / "tests" / "compat" / "java" / "log4j2.properties"
COATI = pathlib.Path(os.environ.get("COATI_BIN", ROOT / "target" / "release" / "coati"))
START_LINE = "Kafka Server started"
START_DEADLINE_SECONDS = 120
STOP_DEADLINE_SECONDS = 60
# Tests want a JVM that starts fast; who measures gives others.
SMALL_JAVA = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
BROKER_JAVA = ("-Xmx512m", *SMALL_JAVA[1:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tool_command(main_class: str, *arguments: str) -> list[str]:
    """The command line of one of Apache Kafka's tools."""
    return java_command(main_class, *arguments, jars=TOOL_JARS)


def java_command(main_class: str, *arguments: str, level: str = "WARN", java: tuple[str, ...] = SMALL_JAVA,
                 jars: pathlib.Path = JARS) -> list[str]:
    """The command line of one of Apache Kafka's main classes."""
    return [
        "java", *java, f"-Dlog.level={level}",
        f"-Dlog4j2.configurationFile={JAVA_CONFIG}", "-cp", f"{DEPS / 'java' / 'classes'}:{jars}/*",
        main_class, *arguments,
    ]


class Broker:
    """One broker process. `kill` and `start` again keep port and data: that is a crash and its recovery."""

    def __init__(self, kind: str, settings: dict[str, str] | None = None, cores: int | None = None,
                 directory: pathlib.Path | None = None, port: int | None = None,
                 java: tuple[str, ...] = BROKER_JAVA, wrapper: tuple[str, ...] = (), own_session: bool = False):
        """`wrapper` is put before the command, as `taskset` is; in a session of its own the broker gets no Ctrl-C."""
        assert kind in ("kafka", "coati"), kind
        self.kind = kind
        self.settings = dict(settings or {})
        self.cores = cores
        self.java = java
        self.wrapper = wrapper
        self.own_session = own_session
        self.start_seconds = 0.0
        self.owns_directory = directory is None
        self.directory = pathlib.Path(directory or tempfile.mkdtemp(prefix=f"{kind}-"))
        self.data = self.directory / "data"
        self.port = port or free_port()
        self.controller_port = free_port() if kind == "kafka" else None
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.controller = f"127.0.0.1:{self.controller_port}"
        self.log_path = self.directory / "broker.log"
        self.process: subprocess.Popen | None = None
        self.reader: threading.Thread | None = None

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        self.kill()
        if self.owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def start(self):
        assert self.process is None
        command = self.kafka_command() if self.kind == "kafka" else self.coati_command()
        begun = time.monotonic()
        self.process = subprocess.Popen([*self.wrapper, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL, cwd=self.directory, start_new_session=self.own_session)
        started = threading.Event()
        self.reader = threading.Thread(target=self.follow, args=(self.process, started), daemon=True)
        self.reader.start()
        started.wait(START_DEADLINE_SECONDS)
        self.start_seconds = time.monotonic() - begun
        if self.process.poll() is not None or not self.is_ready:
            code = self.process.poll()
            self.kill()
            raise RuntimeError(f"{self.kind} did not start (exit {code}):\n{self.log()[-4000:]}")
        return self

    def follow(self, process, started):
        """Copies the broker's output to its log file and tells when it serves, or has ended."""
        self.is_ready = False
        with open(self.log_path, "ab") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if START_LINE.encode() in line:
                    self.is_ready = True
                    started.set()
        started.set()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def stop(self) -> int:
        """A clean stop: SIGTERM, and the exit code. Apache Kafka's JVM reports 143."""
        return self.end(signal.SIGTERM)

    def kill(self):
        """A crash: SIGKILL."""
        self.end(signal.SIGKILL)

    def end(self, number) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(number)
        try:
            code = process.wait(STOP_DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"{self.kind} did not end within {STOP_DEADLINE_SECONDS} s of signal {number}")
        self.reader.join()
        process.stdout.close()
        return code

    def coati_command(self) -> list[str]:
        command = [str(COATI), "start", "--data-dir", str(self.data), "--listen", self.bootstrap]
        if self.cores:
            command += ["--cores", str(self.cores)]
        for key, value in self.settings.items():
            command += ["-o", f"{key}={value}"]
        return command

    def kafka_command(self) -> list[str]:
        properties = self.directory / "server.properties"
        if not properties.exists():
            settings = {
                "process.roles": "broker,controller",
                "node.id": "0",
                "controller.quorum.voters": f"{self.settings.get('node.id', 0)}@{self.controller}",
                "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self.controller_port}",
                "controller.listener.names": "CONTROLLER",
                "log.dirs": str(self.data),
                "offsets.topic.replication.factor": "1",
                "offsets.topic.num.partitions": "1",
                "transaction.state.log.replication.factor": "1",
                "transaction.state.log.min.isr": "1",
                "share.coordinator.state.topic.replication.factor": "1",
                "share.coordinator.state.topic.min.isr": "1",
            } | self.settings
            properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
            subprocess.run(
                java_command("kafka.tools.StorageTool", "format", "-t", "Y29hdGktY29tcGF0LTAwMA", "-c", str(properties)),
                check=True, capture_output=True, cwd=self.directory)
        return java_command("kafka.Kafka", str(properties), level="INFO", java=self.java)


if __name__ == "__main__":
    with Broker(sys.argv[1], dict(pair.split("=", 1) for pair in sys.argv[2:])) as broker:
        print(f"{broker.kind} pid {broker.process.pid} serves {broker.bootstrap}, data {broker.data}", flush=True)
        sys.stdin.readline()
