"""Holds `coati bench` against a client that shares no code with it: librdkafka produces the same load to the same broker.

    crosscheck.py [kafka|coati…] [--rounds N] [--seconds S] [--strict]

In interleaved rounds, each on a topic of its own and the first to warm the broker up, both send the same records at the same rate, batches, linger, acks and requests in
flight; medians of throughput and of latency (from when a record was due until its acknowledgement) are told side by side, with the median of
the rounds' ratios: what changes from round to round, as a page cache that is full, hits both. A run counts only when every record was
acknowledged. --strict also asserts that the ratios at a rate are within 15 % of 1, and that without one the generator is not the slower, which
takes a machine with nothing else to do: a test on a crowded one would judge its neighbours.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import typing

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import broker

LOAD = broker.DEPS / "rdkafka" / "release" / "load"
TOLERANCE = 0.15
DEADLINE_SECONDS = 120


class Setting(typing.NamedTuple):
    """The same for both clients; `figures` are what must agree."""

    name: str
    rate: int
    size: int
    linger_ms: int
    batch_records: int
    in_flight: int
    acks: str
    figures: tuple[str, ...]


SETTINGS = [
    # Latency at an easy rate: 5 ms of linger are most of it, as with the Java client's default.
    Setting("5,000 records/s", 5000, 1000, 5, 60, 5, "all", ("records_per_second", "p50", "p99")),
    # Large requests, at a rate that both clients reach beside their broker.
    Setting("10,000 records/s of 10 KB", 10_000, 10_000, 5, 50, 5, "all", ("records_per_second", "p50", "p99")),
    # As fast as acknowledged: large requests, one at a time. What each client needs to make one is part of every turn, and librdkafka
    # needs more. Latencies are of different things: its records wait in its queue, the generator makes none before there is a place for it.
    Setting("as fast as acknowledged", 0, 10_000, 5, 50, 1, "all", ("records_per_second",)),
]


def run_bench(server, topic: str, setting: Setting, seconds: float, warm_up: float) -> dict:
    # A batch leaves with the record that reaches this.
    batch_bytes = setting.batch_records * setting.size - setting.size // 2
    command = [str(broker.COATI), "bench", "produce", "-b", server.bootstrap, "--topic", topic, "--rate", str(setting.rate),
               "--size", str(setting.size), "--linger", str(setting.linger_ms), "--batch", str(batch_bytes),
               "--in-flight", str(setting.in_flight), "--acks", setting.acks, "--seconds", str(seconds), "--warm-up", str(warm_up), "--json"]
    report = json.loads(output_of(command))
    return {"records_per_second": report["produced"]["records_per_second"], "p50": report["acknowledge"]["p50"], "p99": report["acknowledge"]["p99"]}


def run_librdkafka(server, topic: str, setting: Setting, seconds: float, warm_up: float) -> dict:
    # The queue has room for a few batches when it is always full, and for all that may be due when not.
    given = {"rate": setting.rate, "size": setting.size, "seconds": seconds, "warm_up": warm_up,
             "linger.ms": setting.linger_ms, "batch.num.messages": setting.batch_records, "batch.size": 1_000_000,
             "max.in.flight.requests.per.connection": setting.in_flight, "acks": setting.acks, "socket.nagle.disable": "true",
             "queue.buffering.max.messages": 10 * setting.batch_records if setting.rate == 0 else 1_000_000}
    report = json.loads(output_of([str(LOAD), server.bootstrap, topic, *(f"{name}={value}" for name, value in given.items())]))
    if report["failed"] or report["delivered"] != report["sent"]:
        raise AssertionError(f"librdkafka: not all was acknowledged: {report}")
    return report


CLIENTS = {"coati bench": run_bench, "librdkafka": run_librdkafka}


def output_of(command: list[str]) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    if ran.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\nexit {ran.returncode}: {ran.stderr[-2000:]}")
    return ran.stdout


def measure(server, setting: Setting, options) -> dict[str, list[dict]]:
    """Each client's report of each round. Who begins changes from round to round."""
    reports = {name: [] for name in CLIENTS}
    for number in range(options.rounds + 1):
        for name in sorted(CLIENTS, reverse=number % 2 == 1):
            topic = f"crosscheck-{SETTINGS.index(setting)}-{number}-{name.split()[0]}"
            output_of([str(broker.COATI), "topic", "create", topic, "--partitions", "1", "-b", server.bootstrap])
            seconds = options.seconds if number > 0 else options.first_round
            report = CLIENTS[name](server, topic, setting, seconds, options.warm_up)
            if number > 0:
                reports[name].append(report)
            if options.verbose:
                print(f"    {name}: {report}", flush=True)
    return reports


def check(server, setting: Setting, options) -> bool:
    name = f"bench crosscheck {server.kind}: {setting.name}"
    try:
        reports = measure(server, setting, options)
    except (AssertionError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        print(f"FAIL {name}: {error!r}"[:3000], flush=True)
        return False
    agree = True
    for figure in setting.figures:
        ours, theirs = ([report[figure] for report in reports[client]] for client in CLIENTS)
        ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
        within = abs(ratio - 1) <= TOLERANCE or (setting.rate == 0 and ratio > 1)
        agree = agree and within
        print(f"    {figure:<20} coati bench {statistics.median(ours):>10.3f}   librdkafka {statistics.median(theirs):>10.3f}"
              f"   ratio {ratio:5.2f}{'' if within else '  apart'}", flush=True)
    if options.strict and not agree:
        print(f"FAIL {name}: not within {TOLERANCE:.0%}", flush=True)
        return False
    print(f"pass {name}", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", default=["kafka", "coati"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--warm-up", type=float, default=1)
    parser.add_argument("--first-round", type=float, default=10, metavar="SECONDS", help="how long the round is that warms the broker up")
    parser.add_argument("--strict", action="store_true", help="fail when the medians do not agree")
    parser.add_argument("--verbose", action="store_true", help="tell each round")
    options = parser.parse_args()
    passed = True
    for kind in options.kinds:
        with broker.Broker(kind) as server:
            for setting in SETTINGS:
                passed = check(server, setting, options) and passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
