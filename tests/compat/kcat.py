"""kcat's part of the compatibility suite: Debian's kcat on its old librdkafka, run as a program.

    kcat.py BOOTSTRAP: a case a line on stdin (JSON), `pass NAME` or `FAIL NAME: why` a line on stdout.

kcat cannot set timestamps, so that the cases it produces are compared without them; lookups by timestamp then use
what was read.
"""

import json
import re
import subprocess
import sys

import cases
from cases import check

DEADLINE_SECONDS = 20
FORMAT = "%p %o %T %K %S %k%s%h\\n"


def kcat(bootstrap: str, *arguments, data: bytes = b"") -> bytes:
    done = subprocess.run(["kcat", "-b", bootstrap, *arguments], input=data, capture_output=True, timeout=DEADLINE_SECONDS)
    check(done.returncode == 0, f"kcat {arguments}: {done.stderr.decode()[-500:]}")
    return done.stdout


def produce(bootstrap: str, case: dict):
    for partition in range(case["partitions"]):
        lines = []
        for i in range(partition, case["records"], case["partitions"]):
            lines.append((cases.key(i) or b"") + b"\x1f" + (cases.value(i) or b"") + b"\n")
        options = ["-X", f"acks={case['acks']}", "-X", f"enable.idempotence={str(case['idempotent']).lower()}"]
        for name, data in cases.headers(partition):
            options += ["-H", name.encode() + b"=" + data]
        kcat(bootstrap, "-P", "-t", case["topic"], "-p", str(partition), "-K", "\x1f", "-Z", "-z", case["codec"], *options,
             data=b"".join(lines))


def parse(output: bytes):
    """Yields (partition, offset, timestamp, key, value, headers) of what kcat printed in FORMAT."""
    position = 0
    while position < len(output):
        fields = []
        for _ in range(5):
            end = output.index(b" ", position)
            fields.append(int(output[position:end]))
            position = end + 1
        partition, offset, time, key_size, value_size = fields
        key = None if key_size < 0 else output[position:position + key_size]
        position += max(key_size, 0)
        value = None if value_size < 0 else output[position:position + value_size]
        position += max(value_size, 0)
        end = output.index(b"\n", position)
        pairs = [pair.partition(b"=") for pair in output[position:end].split(b",") if pair]
        yield partition, offset, time, key, value, [(name.decode(), data) for name, _, data in pairs]
        position = end + 1


def read(bootstrap: str, topic: str, *arguments) -> list:
    return list(parse(kcat(bootstrap, "-C", "-q", "-t", topic, "-f", FORMAT, *arguments)))


def verify(bootstrap: str, case: dict):
    topic, partitions = case["topic"], case["partitions"]
    listed = json.loads(kcat(bootstrap, "-L", "-J", "-t", topic))
    check(len(listed["topics"][0]["partitions"]) == partitions, "partition count")
    count = case["records"] // partitions
    records = read(bootstrap, topic, "-o", "beginning", "-c", str(case["records"]))
    check(len(records) == case["records"], f"read {len(records)} records")
    timestamps = [[] for _ in range(partitions)]
    for partition, offset, time, key, value, headers in records:
        cases.compare(case, partition, len(timestamps[partition]), offset, key, value, time, headers)
        timestamps[partition].append(time)
    for asked in zip(*(cases.lookups(times) for times in timestamps)):
        options = [word for partition, (time, _) in enumerate(asked) for word in ("-t", f"{topic}:{partition}:{time}")]
        found = dict(re.findall(r"\[(\d+)\] offset (-?\d+)", kcat(bootstrap, "-Q", *options).decode()))
        for partition, (time, expected) in enumerate(asked):
            check(int(found[str(partition)]) == (-1 if expected is None else expected),
                  f"partition {partition} timestamp {time} found {found}")
    for partition in range(partitions):
        middle = read(bootstrap, topic, "-p", str(partition), "-o", str(count // 2), "-c", "1")[0]
        cases.compare(case, partition, count // 2, middle[1], middle[3], middle[4], middle[2], middle[5])


def admin(bootstrap: str, case: dict):
    """kcat has no admin commands: it lists, and a topic comes to be by producing to it."""
    kcat(bootstrap, "-P", "-t", case["topic"], data=b"hello\n")
    names = [topic["topic"] for topic in json.loads(kcat(bootstrap, "-L", "-J"))["topics"]]
    check(case["topic"] in names, "the new topic is not listed")
    check(read(bootstrap, case["topic"], "-o", "beginning", "-c", "1")[0][4] == b"hello", "value differs")


def main():
    bootstrap = sys.argv[1]
    for line in sys.stdin:
        case = json.loads(line)
        try:
            if case["kind"] == "produce":
                produce(bootstrap, case)
            {"admin": admin, "produce": verify, "verify": verify}[case["kind"]](bootstrap, case)
            print(f"pass {case['name']}", flush=True)
        except Exception as error:  # Whatever it is, it is this case's result.
            print(f"FAIL {case['name']}: {error!r}", flush=True)


main()
