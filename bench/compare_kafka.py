"""Starts Apache Kafka 4.4 and Coati in turn, runs the same workloads against each, and has `coati bench compare` write
one report. Only one broker runs at a time, on a fresh data folder. bench/compare-kafka calls it, and installs what it needs.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
import typing

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "lib"))
import broker

WORKLOADS = ROOT / "bench" / "workloads"
DEFAULT_WORKLOADS = ["1-topic-1-partition-1kb", "acks-all-1kb", "max-16-partitions-1kb", "one-record-requests", "read-1gb-1kb"]
# What Apache Kafka's own start script gives the JVM.
KAFKA_JAVA = ("-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
              "-XX:+ExplicitGCInvokesConcurrent", "-XX:MaxInlineLevel=15", "-Djava.awt.headless=true")
# Runs without a rate write as much as the disk takes, and Apache Kafka keeps deleted topics for a minute.
FREE_GB_MIN = 25


class Side(typing.NamedTuple):
    kind: str
    settings: dict[str, str]
    what: str


# The first is what the others are told as ratios of. A page cache beside a page cache, then a sync beside a sync.
SIDES = {
    "kafka": Side("kafka", {}, "defaults: the page cache"),
    "coati-os": Side("coati", {"log.flush.policy": "os"}, "log.flush.policy=os"),
    "kafka-sync": Side("kafka", {"log.flush.interval.messages": "1"}, "flush.messages=1"),
    "coati": Side("coati", {}, "defaults: durable"),
}


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="bench/compare-kafka", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures Coati beside Apache Kafka 4.4 on this machine and writes one report.",
        epilog="sides:\n" + "".join(f"  {name:<12}{side.kind}, {side.what}\n" for name, side in SIDES.items())
        + "\nThe first side is what the others are told as ratios of. Ctrl-C ends it with a report of the whole rounds until then.")
    parser.add_argument("workloads", nargs="*", default=DEFAULT_WORKLOADS, metavar="WORKLOAD",
                        help=f"names in bench/workloads, or files (default: {' '.join(DEFAULT_WORKLOADS)})")
    parser.add_argument("--sides", type=lambda text: text.split(","), default=list(SIDES), metavar="SIDE,SIDE…", help="default: all of them")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=15, help="how long to measure a workload (default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=5, metavar="SECONDS", help="before each of them (default: %(default)s)")
    parser.add_argument("--first-warm-up", type=float, default=20, metavar="SECONDS",
                        help="under load once a broker has started: a JVM needs it, and all get it (default: %(default)s)")
    parser.add_argument("--broker-cpus", metavar="LIST", help="CPUs that the broker may use, as taskset takes them")
    parser.add_argument("--generator-cpu", metavar="N",
                        help="CPU that the generator is pinned to (default, with 4 CPUs or more: the last, and the broker gets the others;"
                        " with fewer, nothing is pinned)")
    parser.add_argument("--out", type=pathlib.Path, metavar="FOLDER",
                        help="for report.txt, report.json, report.html and every run; also where the brokers keep their data meanwhile"
                        " (default: a new one in target/compare-kafka)")
    options = parser.parse_args()
    if len(set(options.sides) & set(SIDES)) < 2 or len(set(options.sides) & set(SIDES)) < len(options.sides):
        parser.error(f"--sides takes two or more of {','.join(SIDES)}")
    if options.rounds < 1:
        parser.error("--rounds needs one at least")
    if options.broker_cpus is None and options.generator_cpu is None and os.cpu_count() >= 4:
        options.generator_cpu = str(os.cpu_count() - 1)
        options.broker_cpus = f"0-{os.cpu_count() - 2}"
    options.workloads = [workload_file(parser, name) for name in options.workloads]
    options.out = (options.out or ROOT / "target" / "compare-kafka" / time.strftime("%Y%m%d-%H%M%S")).resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty")
    return options


def workload_file(parser, name: str) -> pathlib.Path:
    for path in (pathlib.Path(name), WORKLOADS / name, WORKLOADS / f"{name}.toml"):
        if path.is_file():
            return path.resolve()
    parser.error(f"no workload '{name}'; there are: {' '.join(sorted(path.stem for path in WORKLOADS.iterdir()))}")


class Interrupted(Exception):
    pass


class Child:
    """Runs one program at a time. SIGINT and SIGTERM reach it, or end this program where none runs: what has been started is
    then stopped on the way out."""

    def __init__(self):
        self.running: subprocess.Popen | None = None
        self.asked_to_end = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.on_signal)

    def on_signal(self, *_):
        again, self.asked_to_end = self.asked_to_end, True
        if self.running is None:
            raise Interrupted
        self.running.send_signal(signal.SIGKILL if again else signal.SIGINT)

    def run(self, command: list[str]) -> str:
        """What the program printed. Its errors and its progress go to our own."""
        if self.asked_to_end:
            raise Interrupted
        # In a session of its own: a Ctrl-C reaches it through us alone.
        self.running = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True)
        try:
            output, _ = self.running.communicate()
            code = self.running.returncode
        finally:
            self.running = None
        if self.asked_to_end:
            raise Interrupted
        if code != 0:
            raise RuntimeError(f"exit {code}: {shlex.join(command)}")
        return output


class Comparison:
    def __init__(self, options):
        self.options = options
        self.child = Child()
        self.begun = time.monotonic()
        for name in options.sides:
            self.runs(name).mkdir(parents=True)

    def runs(self, name: str) -> pathlib.Path:
        return self.options.out / "runs" / name

    def tell(self, text: str):
        minutes, seconds = divmod(int(time.monotonic() - self.begun), 60)
        print(f"[{minutes:3}:{seconds:02}] {text}", file=sys.stderr, flush=True)

    def estimate(self) -> float:
        options = self.options
        per_workload = options.seconds + options.warm_up + 1
        turn = 8 + options.first_warm_up + per_workload * len(options.workloads)
        return options.rounds * len(options.sides) * turn / 60

    def measure(self):
        """Round after round; who begins changes."""
        options = self.options
        for number in range(options.rounds):
            for turn in range(len(options.sides)):
                name = options.sides[(number + turn) % len(options.sides)]
                self.measure_side(number, name)

    def measure_side(self, number: int, name: str):
        """Every workload against one broker, from its start to its end."""
        options, side = self.options, SIDES[name]
        free_gb = shutil.disk_usage(options.out).free / 1e9
        if free_gb < FREE_GB_MIN:
            raise RuntimeError(f"only {free_gb:.0f} GB are free in {options.out}: {FREE_GB_MIN} may be needed")
        os.sync()  # What another one has left to be written is not for this one's disk to do.
        heading = f"round {number + 1} of {options.rounds}: {name}"
        directory = options.out / f"data-{name}"
        directory.mkdir()
        wrapper = ("taskset", "-c", options.broker_cpus) if options.broker_cpus else ()
        try:
            with broker.Broker(side.kind, side.settings, directory=directory, java=KAFKA_JAVA, wrapper=wrapper, own_session=True) as server:
                start = {"broker": described(side, options.broker_cpus), "seconds": round(server.start_seconds, 3),
                         "resident_mib": resident_mib(server.process.pid)}
                self.tell(f"{heading}: serves after {start['seconds']} s with {start['resident_mib']} MiB; warming up")
                self.warm_up(server)
                for order, workload in enumerate(options.workloads):
                    self.tell(f"{heading}: {workload.stem}")
                    report = json.loads(self.bench(server, "run", str(workload), "--seconds", str(options.seconds),
                                                   "--warm-up", str(options.warm_up)))
                    report["start"] = start
                    file = self.runs(name) / f"{number + 1:03}-{order + 1:02}-{workload.stem}.json"
                    file.write_text(json.dumps(report))
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def warm_up(self, server):
        """Half of it as fast as it goes, half with consumers and small batches."""
        seconds = str(self.options.first_warm_up / 2)
        if self.options.first_warm_up > 0:
            self.bench(server, "produce", "--seconds", seconds, "--warm-up", "0")
            self.bench(server, "mixed", "--seconds", seconds, "--warm-up", "0")

    def bench(self, server, *arguments: str) -> str:
        cpu = ["--cpu", self.options.generator_cpu] if self.options.generator_cpu else []
        return self.child.run([str(broker.COATI), "bench", *arguments, "-b", server.bootstrap, "--broker-pid", str(server.process.pid),
                               *cpu, "--json"])

    def report(self):
        """The table for who watches, the same for machines, and as a page."""
        sides = [f"{name}={self.runs(name)}" for name in self.options.sides]
        for ending, flags in (("json", ["--json", "--html", str(self.options.out / "report.html")]), ("txt", [])):
            command = [str(broker.COATI), "bench", "compare", *sides, *flags]
            text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            (self.options.out / f"report.{ending}").write_text(text)
        print(text)
        print(f"{self.options.out}: report.html, report.json, report.txt and every run")


def described(side: Side, cpus: str | None) -> str:
    if side.kind == "kafka":
        version = next(broker.JARS.glob("kafka_2.13-*.jar")).stem.removeprefix("kafka_2.13-")
        words = [f"Apache Kafka {version}", *KAFKA_JAVA[:2]]
    else:
        words = [subprocess.run([str(broker.COATI), "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()]
    words += [f"{key}={value}" for key, value in side.settings.items()]
    return " ".join(words + ([f"on CPU {cpus}"] if cpus else []))


def resident_mib(process_id: int) -> float:
    pages = int(pathlib.Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def main() -> int:
    options = parse_arguments()
    comparison = Comparison(options)
    cpus = os.cpu_count()
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    comparison.tell(f"{cpus} CPUs, {memory_gb:.0f} GB of memory, Linux {os.uname().release}, load {os.getloadavg()[0]:.1f};"
                    f" about {comparison.estimate():.0f} min")
    try:
        comparison.measure()
        code = 0
    except Interrupted:
        comparison.tell("interrupted: what follows is of the whole rounds until then")
        code = 130
    except RuntimeError as error:
        comparison.tell(f"ended early: {error}")
        code = 1
    comparison.report()
    return code


if __name__ == "__main__":
    sys.exit(main())
