"""Has librdkafka produce and consume as fast as it goes, against each broker in turn, and tells what CPU time the broker took for a GB of
values. bench/librdkafka calls it, and installs what it needs.

Every round is one topic of one partition: filled with acks=1, another with acks=all, and what the last of them has newest is read over and
over, as consumers that keep up do. The first round of a broker warms it up and is not counted.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "lib"))
import broker
import compare_kafka

CLIENT = broker.DEPS / "rdkafka" / "release" / "flat_out"
TICKS = os.sysconf("SC_CLK_TCK")
DEADLINE_SECONDS = 300
PRODUCER = ("queue.buffering.max.messages=1000000", "queue.buffering.max.kbytes=1048576")
# So much of the end of a topic is read: what every broker has in memory then.
TAIL_GB = 0.1


def parse_arguments():
    parser = argparse.ArgumentParser(prog="bench/librdkafka", description="Broker CPU seconds per GB under librdkafka at full speed.")
    parser.add_argument("--sides", type=lambda text: text.split(","), default=["kafka", "coati"], metavar="SIDE,SIDE…",
                        help=f"of {','.join(compare_kafka.SIDES)} (default: kafka,coati)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--gb", type=float, default=2, help="of values that each measurement moves (default: %(default)s)")
    parser.add_argument("--first-gb", type=float, default=8, help="the same for each step of the round that warms a broker up (default: %(default)s)")
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=[1000, 100], metavar="BYTES,BYTES…",
                        help="of each record's value (default: 1000,100)")
    parser.add_argument("--broker-cpus", metavar="LIST", help="CPUs that the broker may use, as taskset takes them (default: all but the last)")
    parser.add_argument("--client-cpus", metavar="LIST", help="CPUs that librdkafka may use (default: the last)")
    options = parser.parse_args()
    last = os.cpu_count() - 1
    options.broker_cpus = options.broker_cpus or f"0-{max(last - 1, 0)}"
    options.client_cpus = options.client_cpus or str(last)
    return options


def cpu_seconds(process_id: int) -> float:
    fields = pathlib.Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=DEADLINE_SECONDS).stdout


def measure(server, options, what: str, topic: str, size: int, amount: float, *settings: str) -> dict[str, float]:
    before = cpu_seconds(server.process.pid)
    client = json.loads(run(["taskset", "-c", options.client_cpus, str(CLIENT), what, server.bootstrap, topic, str(size), str(amount), *settings]))
    gb = client["bytes"] / 1e9
    return {"CPU s/GB": (cpu_seconds(server.process.pid) - before) / gb, "MB/s": 1e3 * gb / client["seconds"]}


def round_of(server, options, size: int, number: int, gb: float) -> dict[str, dict[str, float]]:
    """Each step's figures."""
    figures = {}
    for step, acks, amount in (("produce acks=1", "1", gb), ("produce acks=all", "all", gb), ("consume the tail", "all", TAIL_GB)):
        topic = f"flat-out-{size}-{number}-{step.replace(' ', '-').replace('=', '-')}"
        run([str(broker.COATI), "topic", "create", topic, "--partitions", "1", "-b", server.bootstrap])
        figures[step] = measure(server, options, "produce", topic, size, amount, f"acks={acks}", *PRODUCER)
        if step.startswith("consume"):
            figures[step] = measure(server, options, "consume", topic, size, max(round(gb / TAIL_GB), 1), "fetch.wait.max.ms=100")
        run([str(broker.COATI), "topic", "delete", topic, "-b", server.bootstrap])
    return figures


def main() -> int:
    options = parse_arguments()
    medians: dict[tuple[str, int, str], dict[str, float]] = {}
    for name in options.sides:
        side = compare_kafka.SIDES[name]
        with broker.Broker(side.kind, side.settings, java=compare_kafka.KAFKA_JAVA, wrapper=("taskset", "-c", options.broker_cpus)) as server:
            for size in options.sizes:
                rounds = []
                for number in range(options.rounds + 1):
                    figures = round_of(server, options, size, number, options.gb if number else options.first_gb)
                    if number:
                        rounds.append(figures)
                    told = "; ".join(f"{step} {figure['CPU s/GB']:.3f} at {figure['MB/s']:.0f} MB/s" for step, figure in figures.items())
                    print(f"{name}, {size} B, {f'round {number}' if number else 'warming up'}: {told}", file=sys.stderr, flush=True)
                for step in rounds[0]:
                    medians[name, size, step] = {figure: statistics.median(each[step][figure] for each in rounds) for figure in rounds[0][step]}
    first = options.sides[0]
    print(f"broker CPU seconds per GB of values, medians of {options.rounds}; broker on CPU {options.broker_cpus}, librdkafka on {options.client_cpus}")
    for (name, size, step), figures in medians.items():
        base = medians[first, size, step]
        print(f"{name:<12}{size:>6} B  {step:<18}{figures['CPU s/GB']:>7.3f} s/GB{figures['MB/s']:>7.0f} MB/s"
              f"   {figures['CPU s/GB'] / base['CPU s/GB']:.2f} of {first}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
