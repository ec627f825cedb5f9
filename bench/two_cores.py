"""Loads one CPU, then two, with a broker's core and a generator on each, and tells how much more the two get done. bench/two-cores calls it.

Where there are but two CPUs none is left for generators, so each shares its CPU with a core of the broker: the CPUs are the bound, and
generators scale by themselves. What the machine gives of its own is told by two brokers of one core, which have nothing to do with each other.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "lib"))
import broker

DEADLINE_SECONDS = 120
SMALL = ("small", "--acks", "1")
LOADS = {
    "any partition": (*SMALL, "--partitions", "16", "--in-flight", "128"),
    "eight at once": (*SMALL, "--partitions", "16", "--in-flight", "64", "--partitions-per-request", "8"),
    "one partition": (*SMALL, "--topics", "16", "--producers", "1", "--partitions", "1", "--in-flight", "128"),
}
# By broker: its CPUs.
SETUPS = {"one core": ([0],), "two cores": ([0, 1],), "two brokers": ([0], [1])}


def parse_arguments():
    parser = argparse.ArgumentParser(prog="bench/two-cores", description="How much more two cores get done than one, on CPUs 0 and 1.")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement (default: %(default)s)")
    parser.add_argument("--loads", type=lambda text: text.split(","), default=list(LOADS), metavar="LOAD,LOAD…",
                        help=f"of {','.join(LOADS)} (default: all)")
    return parser.parse_args()


def taskset(cpus: list[int]) -> tuple[str, ...]:
    return ("taskset", "-c", ",".join(map(str, cpus)))


def measure(setup: tuple[list[int], ...], load: tuple[str, ...], seconds: int) -> tuple[float, float]:
    """Requests a second, and microseconds of the brokers' CPU for each."""
    with contextlib.ExitStack() as stack:
        generators = []
        for cpus in setup:
            settings = {"admin.listener": "off"}
            server = stack.enter_context(broker.Broker("coati", settings, cores=len(cpus), wrapper=taskset(cpus)))
            for cpu in cpus:
                command = [*taskset([cpu]), str(broker.COATI), "bench", *load, "--seconds", str(seconds), "--json", "-b", server.bootstrap]
                generators.append((command, len(cpus)))
        running = []
        for command, share in generators:
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            running.append((process, share))
        requests = cores = 0.0
        for process, share in running:
            output, trouble = process.communicate(timeout=DEADLINE_SECONDS)
            report = json.loads(output) if process.returncode == 0 else {"failure": trouble}
            if report["failure"]:
                raise RuntimeError(f"coati bench: {report['failure']}")
            requests += report["produced"]["requests_per_second"]
            cores += report["broker"]["cores"] / share
    return requests, cores * 1e6 / requests


def main() -> int:
    options = parse_arguments()
    for name in options.loads:
        rounds = []
        for number in range(1, options.rounds + 1):
            figures = {setup: measure(cpus, LOADS[name], options.seconds) for setup, cpus in SETUPS.items()}
            rounds.append(figures)
            told = "; ".join(f"{setup} {requests:,.0f}/s at {cost:.2f} us" for setup, (requests, cost) in figures.items())
            print(f"{name}, round {number}: {told}", file=sys.stderr, flush=True)
        one = [each["one core"][0] for each in rounds]
        for setup in SETUPS:
            times = statistics.median(each[setup][0] / first for each, first in zip(rounds, one))
            requests, cost = (statistics.median(each[setup][figure] for each in rounds) for figure in (0, 1))
            print(f"{name:<14} {setup:<12}{requests:>10,.0f} requests/s {cost:>6.2f} us of broker CPU each   {times:.2f} times one core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
