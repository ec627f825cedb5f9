"""The load generator against Apache Kafka 4.4 and against Coati: every acks level and codec, idempotent, each kind of run.

    against.py [kafka|coati…] [--only TEXT]

Every run is short, says what it measured as JSON, and has each record checked where records are read. COATI_BIN names another binary.
"""

import argparse
import json
import pathlib
import subprocess
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import broker

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
SHORT = "--warm-up 0.1 --seconds 0.5"
DEADLINE_SECONDS = 60
# What a broker says its acks=all means, when nothing is set.
FLUSH_MODE = {"kafka": "page cache", "coati": "durable"}


def cases():
    """(name, arguments, check of the report)"""
    verify = f"mixed --partitions 3 --random 0.5 --verify {SHORT}"
    mixed = f"{verify} --rate 2000 --size 200"
    for acks in ("0", "1", "all"):
        for codec in CODECS:
            yield f"acks={acks} {codec}", f"{mixed} --acks {acks} --codec {codec}", verified
    for codec in CODECS:
        yield f"idempotent {codec}", f"{mixed} --idempotent --codec {codec}", verified
    yield "keys, idempotent, large records", f"{verify} --keys zipf --idempotent --size 300000 --rate 50", verified
    yield "produce", f"produce {SHORT}", produced
    yield "small", f"small {SHORT}", produced
    yield "e2e", f"e2e --rate 2000 --verify {SHORT}", verified
    yield "e2e, 20 topics", f"e2e --topics 20 --rate 2000 --verify {SHORT}", verified
    yield "connections", f"connections --idle 50 --rate 1000 {SHORT}", ended
    yield "consume", "consume --backlog-gb 0.05", consumed
    yield "consume gzip", "consume --backlog-gb 0.02 --codec gzip --random 0.5", consumed
    yield "catch-up", f"catch-up --rate 1000 --backlog-gb 0.05 {SHORT}", caught_up
    yield "highest rate", f"e2e --rate max --slo max=0.001ms {SHORT}", nothing_kept
    yield "flush.messages", f"e2e --rate 500 --topic-config flush.messages=1 {SHORT}", flushed


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def ended(report, kind):
    """The whole rate was sent, acknowledged and read."""
    workload = report["workload"]
    due = workload["producerRate"] * workload["testDurationMinutes"] * 60
    for stage in ("acknowledge", "end_to_end"):
        expect(abs(report[stage]["count"] - due) <= 0.02 * due + 4, f"{report[stage]['count']} of {due} records: {stage}")
    expect(report["unread"] == 0, f"{report['unread']} unread")
    expect(report["flush_mode"].startswith(FLUSH_MODE[kind]), report["flush_mode"])
    produced(report, kind)


def verified(report, kind):
    ended(report, kind)
    verdict = report["verdict"]
    expect(verdict["first"] is None, verdict)
    expect(verdict["checked"] >= report["end_to_end"]["count"], f"only {verdict['checked']} checked")


def produced(report, kind):
    expect(report["produced"]["total"]["records"] > 0, "nothing was acknowledged")
    expect(report["broker"]["resident_mib"] > 1, f"the broker's process: {report['broker']}")


def consumed(report, kind):
    total = report["consumed"]["total"]
    filled = report["workload"]["consumerBacklogSizeGB"] * 1e9
    expect(total["bytes"] >= filled, f"{total['bytes']} bytes of {filled}")


def caught_up(report, kind):
    expect(report["alone"]["end_to_end"]["count"] > 0, "nothing was read alone")
    beside = report["beside_reader"]["consumed"]["total"]["bytes"]
    expect(beside >= 5e7, f"only {beside} bytes were read")


def nothing_kept(report, kind):
    expect(report["best"] is None and len(report["trials"]) > 1, report["trials"])


def flushed(report, kind):
    expect(report["flush_mode"] == "flush.messages=1", report["flush_mode"])
    expect(report["end_to_end"]["count"] > 0, "nothing was read")


def run(server, arguments, check):
    command = [str(broker.COATI), "bench", *arguments.split(), "--json", "-b", server.bootstrap]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    expect(ran.returncode == 0, f"{' '.join(command)}\nexit {ran.returncode}: {ran.stderr[-2000:]}")
    check(json.loads(ran.stdout), server.kind)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", default=["kafka", "coati"])
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    failed = 0
    for kind in arguments.kinds:
        with broker.Broker(kind) as server:
            for name, flags, check in cases():
                if arguments.only not in name:
                    continue
                try:
                    run(server, flags, check)
                    print(f"pass bench {kind}: {name}", flush=True)
                except (AssertionError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
                    failed += 1
                    print(f"FAIL bench {kind}: {name}: {error!r}"[:3000], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
