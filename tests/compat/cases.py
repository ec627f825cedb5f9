"""What every client does: the records, the cases, and what they must read back. README.md says it in words."""

import sys

sys.path.append(str(__import__("pathlib").Path(__file__).parent))
import wire

PARTITIONS = 12
RECORDS = 1800


def key(i: int) -> bytes | None:
    return None if i % 7 == 3 and i % 11 != 5 else b"key-%d" % i


def value(i: int) -> bytes | None:
    if i % 11 == 5:
        return None
    pattern = ((i * 31 + k * 7) & 0xFF for k in range(1 + i * 37 % 900))
    return bytes(0 if byte in (10, 31) else byte for byte in pattern)


def headers(partition: int) -> list[tuple[str, bytes]]:
    both = [("h0", b"v%d" % partition), ("h1", bytes([0xFF, ord("a") + partition]))]
    return both[:partition % 3]


def timestamp(case: dict, i: int) -> int:
    return case["base_timestamp"] + i * 10


def check(holds: bool, what: str):
    if not holds:
        raise AssertionError(what)


def compare(case: dict, partition: int, expected_offset: int, offset: int, record_key, record_value, record_timestamp: int,
            record_headers):
    """One record read back against what was written."""
    i = expected_offset * case["partitions"] + partition
    where = f"partition {partition} offset {expected_offset}: "
    check(offset == expected_offset, f"{where}got offset {offset}")
    check(record_key == key(i), f"{where}key differs")
    check(record_value == value(i), f"{where}value differs")
    check(not case["timestamps"] or record_timestamp == timestamp(case, i), f"{where}timestamp {record_timestamp}")
    check(list(record_headers) == headers(partition), f"{where}headers differ: {record_headers}")


def lookups(timestamps: list[int]) -> list[tuple[int, int | None]]:
    """(timestamp to ask for, offset that must be found) for a partition whose records have these timestamps."""
    last = len(timestamps) - 1
    asked = [timestamps[j] - less for j in (0, last // 2, last) for less in (0, 1)]
    found = [(time, next(j for j, t in enumerate(timestamps) if t >= time)) for time in asked]
    return found + [(timestamps[last] + 1, None)]


def create_topics(bootstrap: str, names: list[str]):
    """Creates the topics and returns when every partition has its leader and answers."""
    with wire.Connection(bootstrap) as connection:
        for start in range(0, len(names), 20):
            answer = connection.ask("CreateTopics", 7, {"timeoutMs": 30000, "Topics": [
                {"Name": name, "NumPartitions": PARTITIONS, "ReplicationFactor": 1} for name in names[start:start + 20]]})
            for topic in answer["Topics"]:
                check(topic["ErrorCode"] == 0, f"creating {topic['Name']}: error {topic['ErrorCode']} {topic['ErrorMessage']}")
        for _ in range(10_000):
            answer = connection.ask("ListOffsets", 5, {"ReplicaId": -1, "Topics": [
                {"Name": name, "Partitions": [{"PartitionIndex": p, "Timestamp": -1} for p in range(PARTITIONS)]} for name in names]})
            if all(p["ErrorCode"] == 0 for topic in answer["Topics"] for p in topic["Partitions"]):
                return
        raise AssertionError("the new topics do not become readable")
