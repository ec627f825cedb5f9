"""Asks Apache Kafka and Coati the same requests, good and bad, in every version, and compares the answers.

    differential.py [--write] [--cores N] [--only SCENARIO…] [FIRST SECOND]

FIRST and SECOND are `kafka` and `coati` unless told; `kafka kafka` shows what the comparison cannot hold still.
What volatile fields are worth is in `Normaliser`; the requests are in scenarios.py; differences that are meant are in
allowed.py. From the run comes STATUS.md; without --write the run fails when the committed file says something else.
"""

import argparse
import json
import pathlib
import re
import struct
import sys
import typing

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "lib")]
import allowed
import broker
import scenarios
import wire

STATUS = HERE / "STATUS.md"
FRAME_TIMEOUT_SECONDS = 1.5  # A malformed frame may be left unanswered.
CLOSED = "connection closed"
NOT_ASKED = "was not asked: the scenario had stopped"

# What names an element of a list, so that lists compare by name and not by position.
NAMES = ("Name", "TopicName", "Topic", "ResourceName", "ConfigName", "ApiKey", "PartitionIndex", "Index", "Partition", "NodeId", "BrokerId",
         "LogDir", "ReplicaId", "ProducerId", "TopicId", "BatchIndex", "MemberId", "GroupId", "Key")
# Fields whose value differs from run to run: compared only for being set, or zero, or -1.
VOLATILE = {
    "FinalizedFeaturesEpoch", "LogAppendTimeMs", "LastFetchTimestamp", "LastCaughtUpTimestamp", "LastTimestamp", "TotalBytes",
    "UsableBytes", "ThrottleTimeMs",
}
TEXTS = {"ErrorMessage", "Documentation", "BatchIndexErrorMessage"}  # Ours are our own words: only there or not.


# How member ids end.
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Asked(typing.NamedTuple):
    """One recorded request."""

    scenario: str
    label: str
    api: str
    version: int
    occurrence: int


class Normaliser:
    """Makes the answers of two brokers comparable: identities become their order of appearance."""

    def __init__(self, server: broker.Broker):
        self.server = server
        self.seen: dict[str, dict] = {}

    def learn(self, value):
        """Remembers which topic an id belongs to: an answer may list topics in any order."""
        if isinstance(value, list):
            for inner in value:
                self.learn(inner)
        elif isinstance(value, dict):
            name = value.get("Name") or value.get("TopicName")
            if name and value.get("TopicId", wire.ZERO_ID) != wire.ZERO_ID:
                self.seen.setdefault("TopicId", {})[value["TopicId"]] = f"of {name}"
            for inner in value.values():
                self.learn(inner)

    def identity(self, kind: str, value):
        known = self.seen.setdefault(kind, {})
        return f"{kind} {known.setdefault(value, len(known) + 1)}"

    def value(self, name: str, value, api: str):
        if isinstance(value, dict):
            return {key: self.value(key, inner, api) for key, inner in value.items()}
        if isinstance(value, list):
            return self.elements(name, [self.value(name, inner, api) for inner in value])
        if isinstance(value, bytes):
            return {"batches": batches(value)} if name == "Records" else value.hex()
        if name in VOLATILE:
            return value if value in (None, 0, -1) else "some"
        if name in TEXTS:
            return None if not value else "text"
        if name == "Port" and value == self.server.port or value == str(self.server.port):
            return "port"
        if name in ("TopicId", "ReplicaDirectoryId") and value != wire.ZERO_ID:
            return self.identity(name, value)
        if name == "ClusterId" and value is not None:
            return "cluster"
        if name == "ProducerId" and value > 0 or name == "SessionId" and value > 0:
            return self.identity(name, value)
        if isinstance(value, str):
            for text, name in ((str(self.server.data), "DATA"), (self.server.bootstrap, "HOST:PORT"), (self.server.controller, "HOST:CONTROLLER")):
                value = value.replace(text, name)
            return UUID.sub(lambda found: self.identity("uuid", found.group()), value)
        if api == "DescribeQuorum" and name in ("HighWatermark", "LogEndOffset", "LeaderEpoch"):
            return "some" if value > 0 else value
        return value

    @staticmethod
    def elements(name: str, elements: list):
        """A list of structs as a dict by name, so that order does not matter where Kafka takes it from a hash."""
        if name == "Synonyms" or not elements or not isinstance(elements[0], dict):
            return elements
        named = {}
        for element in elements:
            key = "/".join(str(element[field]) for field in NAMES if element.get(field) is not None) or "?"
            while key in named:
                key += " again"
            named[key] = element
        return named


def batches(records: bytes) -> list:
    """The headers of a fetched records field, and their payloads."""
    found = []
    while len(records) >= 61:
        base, length, epoch, magic, crc, attributes, last, first_time, max_time, producer, producer_epoch, sequence, count = \
            struct.unpack_from(">qiibIhiqqqhii", records)
        if 12 + length > len(records):
            break
        found.append({
            "base": base, "length": length, "leader epoch": epoch, "magic": magic, "attributes": attributes, "last": last,
            "first time": "now" if attributes & 8 else first_time, "max time": "now" if attributes & 8 else max_time,
            "crc": "of now" if attributes & 8 or producer > 0 else crc,
            "producer": min(producer, 0), "producer epoch": producer_epoch, "sequence": sequence, "count": count,
            "payload": records[61:12 + length].hex(),
        })
        records = records[12 + length:]
    if records:
        found.append({"cut": len(records)})
    return found


class Run:
    """One pass of the scenarios against one broker, and what it answered."""

    def __init__(self, server: broker.Broker, verbose: bool):
        self.server = server
        self.normaliser = Normaliser(server)
        self.connection = wire.Connection(server.bootstrap)
        self.answers: dict[Asked, object] = {}
        self.verbose = verbose
        self.scenario = ""
        self.ranges = {key: (low, high) for key, low, high in self.api_versions()}

    def api_versions(self):
        answer = self.connection.ask("ApiVersions", 3, {"ClientSoftwareName": "compat", "ClientSoftwareVersion": "1"})
        for api in answer["ApiKeys"]:
            yield api["ApiKey"], api["MinVersion"], api["MaxVersion"]

    def play(self, scenario):
        self.scenario = scenario.__name__
        try:
            scenario(self)
        except Exception as error:  # Whatever it is, the two brokers are compared in it.
            self.record("ends", self.scenario, 0, f"stopped: {error!r}"[:1500])
            self.reconnect()

    def reconnect(self):
        self.connection.close()
        self.connection = wire.Connection(self.server.bootstrap)

    def record(self, label: str, api: str, version: int, answer):
        if self.verbose:
            print(f"{self.server.kind} {api} v{version} {label}: {json.dumps(answer, default=str)[:1000]}", file=sys.stderr, flush=True)
        self.normaliser.learn(answer)
        normal = answer if isinstance(answer, str) else self.normaliser.value("", answer, api)
        occurrence = 1
        while (asked := Asked(self.scenario, label, api, version, occurrence)) in self.answers:
            occurrence += 1
        self.answers[asked] = normal

    def ask(self, label: str, api: str, version: int, body: dict):
        """One request, recorded. None when the connection was closed."""
        try:
            answer = self.connection.ask(api, version, body)
        except wire.Closed:
            self.reconnect()
            self.record(label, api, version, CLOSED)
            return None
        except (wire.WireError, UnicodeDecodeError, TimeoutError) as error:
            self.reconnect()
            self.record(label, api, version, f"unreadable: {error}")
            return None
        self.record(label, api, version, answer)
        return answer

    def each(self, label: str, api: str, body, versions=None):
        """The request in every version that Apache Kafka serves; `body` may depend on the version."""
        for version in versions or scenarios.versions(api):
            self.ask(label, api, version, body(version) if callable(body) else body)

    def raw(self, label: str, frame: bytes, key: int = -1, version: int = 0, whole: bool = False):
        """Bytes as they are; with a key, the answer is decoded as that API's."""
        self.connection.socket.settimeout(FRAME_TIMEOUT_SECONDS)
        try:
            if whole:
                self.connection.socket.sendall(frame)
            else:
                self.connection.send_frame(frame)
            answer = self.connection.read_frame()
        except (wire.Closed, BrokenPipeError, ConnectionResetError):
            self.reconnect()
            self.record(label, "raw", version, CLOSED)
            return
        except TimeoutError:
            self.reconnect()
            self.record(label, "raw", version, "no answer")
            return
        self.connection.socket.settimeout(wire.TIMEOUT_SECONDS)
        self.record(label, "raw", version, wire.decode_response(key, version, answer)[1] if key >= 0 else answer.hex())

    def quietly(self, api: str, version: int, body: dict) -> dict:
        """A request that prepares the next one; its answer is nobody's business."""
        answer = self.connection.ask(api, version, body)
        self.normaliser.learn(answer)
        return answer

    def ready(self, *topics: str, partitions: int = 1):
        """Returns when the topics' partitions answer."""
        for _ in range(20_000):
            answer = self.quietly("ListOffsets", 5, {"ReplicaId": -1, "Topics": [
                {"Name": name, "Partitions": [{"PartitionIndex": p, "Timestamp": -1} for p in range(partitions)]} for name in topics]})
            if all(p["ErrorCode"] == 0 for topic in answer["Topics"] for p in topic["Partitions"]):
                return
        raise AssertionError(f"{self.server.kind}: {topics} do not become ready: {answer}")

    def ends_at(self, topic: str, offset: int):
        """Returns when consumers may read partition 0 up to the offset."""
        for _ in range(20_000):
            answer = self.quietly("ListOffsets", 5, {"ReplicaId": -1, "Topics": [
                {"Name": topic, "Partitions": [{"PartitionIndex": 0, "Timestamp": -1}]}]})
            if answer["Topics"][0]["Partitions"][0]["Offset"] >= offset:
                return
        raise AssertionError(f"{self.server.kind}: {topic} does not reach {offset}: {answer}")

    def cluster_id(self) -> str:
        return self.quietly("DescribeCluster", 0, {})["ClusterId"]

    def topic_id(self, name: str) -> str:
        answer = self.quietly("Metadata", 12, {"Topics": [{"Name": name}], "AllowAutoTopicCreation": False})
        return answer["Topics"][0]["TopicId"]


def differences(first, second, path: str = ""):
    """(path, value there, value here) for all that differs."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in [*first, *(key for key in second if key not in first)]:
            yield from differences(first.get(key, "absent"), second.get(key, "absent"), f"{path}.{key}" if path else key)
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second)):
            yield from differences(*pair, f"{path}[{index}]")
    elif first != second:
        yield path, first, second


def short(value) -> str:
    text = json.dumps(value)
    return text if len(text) < 300 else text[:300] + "…"


def compare(first: Run, second: Run) -> tuple[int, dict[str, int]]:
    """Prints what differs, a difference that several versions share once; (requests that differ, uses of each allowance)."""
    used: dict[str, int] = {}
    failed: dict[tuple, list[int]] = {}
    for asked in dict.fromkeys([*first.answers, *second.answers]):
        unmeant = []
        for path, expected, got in differences(first.answers.get(asked, NOT_ASKED), second.answers.get(asked, NOT_ASKED)):
            reason = allowed.reason(asked.api, asked.version, asked.label, path, expected, got)
            if reason:
                used[reason] = used.get(reason, 0) + 1
            else:
                unmeant.append(f"     {path or 'answer'}: expected {short(expected)}, got {short(got)}")
        if unmeant:
            # Names carry the version that a case is about.
            text = re.sub(r"\b([a-z]+(?:-[a-z]+)*)-\d+\b", r"\1-N", "\n".join(unmeant[:60]))
            failed.setdefault((asked.scenario, asked.api, re.sub(r" v\d+$", "", asked.label), text), []).append(asked.version)
    for (scenario, api, label, text), versions in failed.items():
        print(f"FAIL differential {scenario}: {api} {label}, versions {', '.join(map(str, versions))}\n{text}", flush=True)
    return sum(map(len, failed.values())), used


def status(first: Run, second: Run, used: dict[str, int]) -> str:
    """STATUS.md: what each serves, and what this run has exercised."""
    lines = [
        "# What is compatible, as tested", "",
        "Made by `tests/compat/differential.py --write`, which asks Apache Kafka 4.4 and Coati the same requests and compares the",
        "answers field by field. Do not edit: `tests/run differential` fails when this page is untrue.", "",
        "| key | API | Apache Kafka 4.4 | Coati | versions compared | requests compared |", "|---:|---|---|---|---|---:|",
    ]
    asked: dict[str, list[int]] = {}
    for entry in first.answers:
        asked.setdefault(entry.api, []).append(entry.version)

    def span(versions) -> str:
        return "–" if not versions else f"{min(versions)}–{max(versions)}" if len(set(versions)) > 1 else str(min(versions))

    for key in sorted(first.ranges):
        api = wire.API_NAMES[key]
        served = [version for version in asked.get(api, []) if first.ranges[key][0] <= version <= first.ranges[key][1]]
        lines.append(f"| {key} | {api} | {span(first.ranges[key])} | {span(second.ranges.get(key))} | {span(served)} | {len(asked.get(api, []))} |")
    lines += ["", f"Malformed frames compared: {len(asked.get('raw', []))}.", "", "## Differences that are meant", ""]
    lines += [f"- {reason}" for reason in allowed.reasons() if reason in used]
    return "\n".join(lines) + "\n"


def untested(first: Run, second: Run) -> list[str]:
    """APIs or versions that the second broker serves and nobody has compared."""
    asked = {(entry.api, entry.version) for entry in first.answers}
    problems = []
    for key, (low, high) in second.ranges.items():
        api = wire.API_NAMES[key]
        if key not in first.ranges:
            problems.append(f"{api} is served, and not by Apache Kafka")
            continue
        if (low, high) != first.ranges[key]:
            problems.append(f"{api} is served in versions {low}-{high}, by Apache Kafka in {first.ranges[key]}")
        missing = [version for version in range(max(low, wire.REQUESTS[key].versions.low), high + 1) if (api, version) not in asked]
        if missing:
            problems.append(f"{api} is served in versions {missing} that nothing compares")
    return problems


def play(kind: str, options) -> Run:
    with broker.Broker(kind, scenarios.SETTINGS, options.cores if kind == "coati" else None) as server:
        run = Run(server, options.verbose)
        scenarios.play(run, options.only)
        if options.log:
            print(server.log(), file=sys.stderr)
        return run


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("pair", nargs="*", default=["kafka", "coati"])
    arguments.add_argument("--write", action="store_true")
    arguments.add_argument("--verbose", action="store_true", help="every answer, on stderr")
    arguments.add_argument("--log", action="store_true", help="the brokers' logs, on stderr")
    arguments.add_argument("--only", nargs="*", default=[], help="scenarios by name; STATUS.md is left alone")
    arguments.add_argument("--cores", type=int)
    options = arguments.parse_args()
    first, second = (play(kind, options) for kind in options.pair)
    failed, used = compare(first, second)
    for api in dict.fromkeys(entry.api for entry in first.answers):
        print(f"     {api}: {sum(entry.api == api for entry in first.answers)} requests")
    print(f"{'FAIL' if failed else 'pass'} differential: {len(first.answers) - failed} of {len(first.answers)} requests answered alike, or differently as meant")
    if options.only or options.pair != ["kafka", "coati"]:
        sys.exit(1 if failed else 0)
    for problem in untested(first, second):
        print(f"FAIL differential {problem}")
        failed += 1
    for unused in (reason for reason in allowed.reasons() if reason not in used):
        print(f"FAIL differential an allowance that nothing needs: {unused}")
        failed += 1
    page = status(first, second, used)
    if options.write:
        STATUS.write_text(page)
    true = STATUS.exists() and STATUS.read_text() == page
    print(f"{'pass' if true else 'FAIL'} differential STATUS.md is true")
    sys.exit(0 if true and not failed else 1)


if __name__ == "__main__":
    main()
