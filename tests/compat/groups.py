"""Consumer groups with the clients that people use: each client's members come, go, crash and come back under a name.

    groups.py coati|kafka [--cores N] [--client NAME…] [--only WORD]

A member is a process, `CLIENT… BOOTSTRAP member GROUP TOPIC ASSIGNOR [INSTANCE]`; what it prints and what it can be told is in
README.md. Records are written while nobody moves, so that each must be read exactly once; only where a member dies
between reading and committing may one come twice. Scenes play side by side, but for the killed broker, which they all see at once.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import pathlib
import struct
import re
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "lib")]
import broker
import cases
import wire
from cases import check
from clients import CLIENTS

PARTITIONS = 8
DEADLINE_SECONDS = 60
SCENES_AT_ONCE = 4


@dataclasses.dataclass(frozen=True)
class Abilities:
    """What a client has: its assignors (`consumer` is the consumer protocol), names for members, whether it can be told to pause
    and to seek, patterns ("live": topics that come later are found), both protocols to move between, what writes records, whether it lives on when its broker is killed,
    and whether it hands out what a fetch brings of a partition that went to another member meanwhile."""
    assignors: tuple[str, ...]
    has_names: bool = True
    is_steered: bool = True
    patterns: str = "live"
    migrates: bool = False
    writes: bool = False
    survives: bool = True
    strays: bool = False


BOTH = ("range", "cooperative-sticky", "consumer")
ABILITIES = {
    # It ends when its last connection does.
    "kcat": Abilities(("range", "cooperative-sticky"), has_names=False, is_steered=False, survives=False),
    "rdkafka": Abilities(BOTH, migrates=True),
    "java": Abilities(BOTH, migrates=True),
    "franz-go": Abilities(BOTH),
    # Where a topic that comes later makes it join anew, 3.0.12 now and then never begins to heartbeat again: by Apache Kafka
    # in 1 of 30 rounds.
    "kafka-python": Abilities(("range", "cooperative-sticky"), patterns="at start"),
    "kafkajs": Abilities(("roundrobin",), has_names=False, patterns="at start"),
    "sarama": Abilities(("range", "cooperative-sticky"), patterns="", writes=True),
    "aiokafka": Abilities(("range", "sticky"), writes=True),
    # It cannot read the new leader that a fetch is told of (KIP-951), by Apache Kafka neither. A batch read twice: by Apache
    # Kafka in 4 of 40 scenes.
    "platformatic": Abilities(("roundrobin", "consumer"), patterns="", writes=True, survives=False, strays=True),
}
COMMANDS = {client.name: client.command for client in CLIENTS} | {
    "sarama": [str(broker.DEPS / "sarama")],
    "aiokafka": [str(broker.DEPS / "aiokafka" / "bin" / "python"), str(HERE / "aiokafka" / "client.py")],
    "platformatic": ["node", str(broker.DEPS / "platformatic" / "client.mjs")],
}


class Member:
    """A running client and what it has read."""

    def __init__(self, name: str, bootstrap: str, group: str, topic: str, assignor: str, instance: str = ""):
        self.name = name
        if name == "kcat":
            settings = {"auto.offset.reset": "earliest", "auto.commit.interval.ms": "100", "session.timeout.ms": "6000",
                        "heartbeat.interval.ms": "500", "topic.metadata.refresh.interval.ms": "1000", "partition.assignment.strategy": assignor}
            words = [word for key, value in settings.items() for word in ("-X", f"{key}={value}")]
            command = ["kcat", "-b", bootstrap, "-u", "-q", "-f", "record %t %p %o\\n", *words, "-G", group, topic]
        else:
            command = [*COMMANDS[name], bootstrap, "member", group, topic, assignor, *([instance] if instance else [])]
        self.records: list[tuple[str, int, int]] = []
        self.done = threading.Semaphore(0)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            words = line.split()
            if words and words[0] == "record":
                self.records.append((words[1], int(words[2]), int(words[3])))
            if words == ["done"]:
                self.done.release()

    def tell(self, command: str):
        """Has it do something, and waits until it has."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        check(self.done.acquire(timeout=DEADLINE_SECONDS), f"{self.name} does not {command}")

    def leave(self):
        """Ends in order: the group hears of it."""
        if self.name == "kcat":
            self.process.terminate()
        else:
            self.process.stdin.close()
        self.process.wait(DEADLINE_SECONDS)
        self.reader.join()

    def crash(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()


def assigned_count(member: dict) -> int:
    """How many partitions a described member has: by topic in a consumer group, else as plain consumers write them."""
    if "Assignment" in member:
        return sum(len(topic["Partitions"]) for topic in member["Assignment"]["TopicPartitions"])
    assignment = member["MemberAssignment"]
    if not assignment:
        return 0
    count, at = 0, 6
    for _ in range(struct.unpack_from(">i", assignment, 2)[0]):
        at += 2 + struct.unpack_from(">h", assignment, at)[0]
        partitions = struct.unpack_from(">i", assignment, at)[0]
        count, at = count + partitions, at + 4 + 4 * partitions
    return count


class Scene:
    """One group, its topics, and what was written to each."""

    def __init__(self, server: broker.Broker, name: str):
        self.server, self.group, self.topic = server, f"group-{name}", f"topic-{name}"
        self.connection = wire.Connection(server.bootstrap)
        self.written: dict[str, int] = {}
        self.members: list[Member] = []
        self.create(self.topic)

    def create(self, topic: str):
        answer = self.connection.ask("CreateTopics", 7, {"timeoutMs": 30000, "Topics": [
            {"Name": topic, "NumPartitions": PARTITIONS, "ReplicationFactor": 1}]})
        check(answer["Topics"][0]["ErrorCode"] == 0, f"creating {topic}: {answer}")
        self.written[topic] = 0

    def start(self, client: str, assignor: str, instance: str = "", topic: str = "") -> Member:
        member = Member(client, self.server.bootstrap, self.group, topic or self.topic, assignor, instance)
        self.members.append(member)
        return member

    def write(self, each: int, topic: str = ""):
        topic = topic or self.topic
        for partition in range(PARTITIONS):
            records = wire.batch([b"value"] * each)
            body = {"Acks": -1, "TimeoutMs": 30000, "TopicData": [{"Name": topic, "PartitionData": [{"Index": partition, "Records": records}]}]}
            for _ in range(200):
                answer = self.connection.ask("Produce", 9, body)["Responses"][0]["PartitionResponses"][0]
                if answer["ErrorCode"] == 0:
                    break
                time.sleep(0.05)
            check(answer["ErrorCode"] == 0, f"producing: {answer}")
        self.written[topic] += each

    def write_by(self, client: str, each: int):
        subprocess.run([*COMMANDS[client], self.server.bootstrap, "write", self.topic, str(PARTITIONS), str(each)],
                       check=True, capture_output=True, timeout=DEADLINE_SECONDS)
        self.written[self.topic] += each

    def wanted(self) -> set[tuple[str, int, int]]:
        return {(topic, partition, offset) for topic, written in self.written.items() for partition in range(PARTITIONS) for offset in range(written)}

    def until(self, what: str, holds):
        """Waits for something that clients bring about."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                said = [member.process.stderr.read()[-500:] for member in self.members if member.process.poll() is not None]
                raise AssertionError(f"{what}: {self.counts()} of {self.written} written; members say {said}; {self.describe()}")
            time.sleep(0.05)

    def counts(self) -> dict:
        return dict(collections.Counter(record for member in self.members for record in member.records).most_common(3)) | {
            "read": sum(len(member.records) for member in self.members)}

    def all_read(self, twice: bool = False):
        """Every record that was written is read; once, unless told."""
        wanted = self.wanted()
        self.until("all is read", lambda: wanted <= {record for member in self.members for record in list(member.records)})
        read = [record for member in self.members for record in member.records]
        check(set(read) == wanted, f"read more than was written: {sorted(set(read) - wanted)[:3]}")
        check(twice or len(read) == len(wanted), f"read {len(read)} records of {len(wanted)}: {self.counts()}")

    def all_committed(self):
        def committed():
            answer = self.connection.ask("OffsetFetch", 7, {"GroupId": self.group, "Topics": None})
            offsets = {(topic["Name"], p["PartitionIndex"]): p["CommittedOffset"] for topic in answer["Topics"] for p in topic["Partitions"]}
            return offsets == {(topic, partition): written for topic, written in self.written.items() if written for partition in range(PARTITIONS)}
        self.until("all is committed", committed)

    def describe(self) -> dict:
        for _ in range(100):
            group = self.connection.ask("ConsumerGroupDescribe", 1, {"GroupIds": [self.group]})["Groups"][0]
            if group["ErrorCode"] == 0:
                return group | {"Members": [member | {"GroupInstanceId": member["InstanceId"]} for member in group["Members"]]}
            group = self.connection.ask("DescribeGroups", 5, {"Groups": [self.group]})["Groups"][0]
            if group["ErrorCode"] == 0:
                return group
            time.sleep(0.05)
        raise AssertionError(group)

    def settled(self, count: int) -> dict:
        """So many members agree, and every partition is somebody's: cooperative members meet twice before it is."""
        def stable():
            group = self.describe()
            assigned = sum(assigned_count(member) for member in group["Members"])
            return group["GroupState"] == "Stable" and len(group["Members"]) == count and assigned == PARTITIONS * len(self.written)
        self.until(f"{count} members agree", stable)
        return self.describe()

    def all_assigned_alike(self, before: dict):
        """Nobody has come or gone, and everybody has what it had."""
        assignments = lambda group: {member["MemberId"]: member.get("MemberAssignment", member.get("Assignment")) for member in group["Members"]}
        check(assignments(self.describe()) == assignments(before), f"the group has changed: {self.describe()} was {before}")

    def end(self):
        for member in self.members:
            if member.process.poll() is None:
                member.crash()


def comings_and_goings(scene: Scene, client: str, assignor: str):
    twice = ABILITIES[client].strays
    scene.write(40)
    first = scene.start(client, assignor)
    scene.all_read()
    scene.all_committed()
    second = scene.start(client, assignor)
    scene.settled(2)
    scene.write(30)
    scene.all_read(twice)
    check(second.records and len(first.records) > 40 * PARTITIONS, "both read")
    scene.all_committed()
    second.crash()
    scene.settled(1)
    scene.write(20)
    scene.all_read(twice)
    scene.all_committed()
    first.leave()
    scene.until("the group is empty", lambda: scene.describe()["GroupState"] == "Empty")
    if ABILITIES[client].writes:
        scene.write_by(client, 10)
    else:
        scene.write(10)
    third = scene.start(client, assignor)
    scene.all_read(twice)
    scene.all_committed()
    check(len(third.records) == 10 * PARTITIONS, f"goes on where the first has left: {len(third.records)}")
    third.leave()


def static_restart(scene: Scene, client: str, assignor: str):
    """A member that crashes and comes back under its name in time: nobody else notices."""
    scene.write(10)
    scene.start(client, assignor, "one")
    second = scene.start(client, assignor, "two")
    before = scene.settled(2)
    scene.all_read()
    scene.all_committed()
    second.crash()
    again = scene.start(client, assignor, "two")

    def replaced():
        group = scene.describe()
        ids = {member["GroupInstanceId"]: member["MemberId"] for member in group["Members"]}
        was = {member["GroupInstanceId"]: member["MemberId"] for member in before["Members"]}
        return group["GroupState"] == "Stable" and ids["one"] == was["one"] and ids["two"] != was["two"]
    scene.until("the member is back", replaced)
    scene.write(10)
    scene.all_read()
    scene.all_committed()
    check(len(again.records) >= 10, "reads on")


def static_return(scene: Scene, client: str):
    """A static member of the consumer protocol goes for a while: what it had waits for it, and nobody else notices."""
    scene.write(10)
    scene.start(client, "consumer", "one")
    second = scene.start(client, "consumer", "two")
    scene.settled(2)
    scene.all_read()
    scene.all_committed()
    epoch = scene.describe()["GroupEpoch"]
    second.leave()
    again = scene.start(client, "consumer", "two")
    scene.until("the member is back", lambda: all(member["MemberEpoch"] == epoch for member in scene.describe()["Members"]))
    scene.write(10)
    scene.all_read()
    scene.all_committed()
    check(again.records and scene.describe()["GroupEpoch"] == epoch, "reads on, in the same epoch")


def migration(scene: Scene, client: str):
    """Members move to the consumer protocol and back, one at a time; the group goes on."""
    kind = lambda: next(group["GroupType"] for group in scene.connection.ask("ListGroups", 5, {"StatesFilter": [], "TypesFilter": []})["Groups"]
                        if group["GroupId"] == scene.group)
    scene.write(10)
    old = [scene.start(client, "range") for _ in range(2)]
    scene.settled(2)
    scene.all_read()
    check(kind() == "classic", "begins as a classic group")
    for protocol, end in (("consumer", "consumer"), ("range", "classic")):
        new = []
        for member in old:
            new.append(scene.start(client, protocol))
            scene.settled(3)
            member.leave()
            scene.settled(2)
            scene.write(10)
            scene.all_read(twice=True)
            scene.all_committed()
        check(kind() == end, f"is a {end} group")
        old = new


def steering(scene: Scene, client: str, assignor: str):
    """Commits that nobody waits for; a member that pauses and keeps its place; members that go back."""
    twice = ABILITIES[client].strays
    scene.write(20)
    members = [scene.start(client, assignor) for _ in range(2)]
    paused, other = members
    scene.settled(2)
    scene.all_read(twice)
    scene.all_committed()
    for member in members:
        member.tell("async")
    scene.write(10)
    scene.all_read(twice)
    scene.all_committed()
    before = scene.describe()
    mine = {(topic, partition) for topic, partition, _ in other.records}
    paused.tell("pause")
    # A fetch that was under way may bring what is written first; those after it must not.
    for each in (1, 10):
        written = scene.written[scene.topic]
        scene.write(each)
        scene.until("the other reads on", lambda: all(
            (topic, partition, written + each - 1) in other.records for topic, partition in mine if (topic, partition, written - 1) in other.records))
    check(not any(offset >= written for _, _, offset in paused.records), "a paused member reads nothing")
    scene.all_assigned_alike(before)
    paused.tell("resume")
    scene.all_read(twice)
    scene.all_committed()
    for place in (25, 0):
        for member in members:
            known = collections.Counter(member.records)
            again = {record for record in member.records if record[2] >= place and (record[0], record[1], 40) in member.records}
            member.tell(f"seek {place}")
            scene.until(f"it reads again from {place}", lambda: all(count > known[record] for record, count in
                                                                    collections.Counter(member.records).items() if record in again))
    scene.write(10)
    scene.all_read(twice=True)
    scene.all_committed()


def pattern(scene: Scene, client: str, assignor: str, is_live: bool):
    """A subscription to a pattern: to what fits it now and, where the client looks again, later."""
    scene.create(f"{scene.topic}-and")
    for topic in scene.written:
        scene.write(10, topic)
    other = Scene(scene.server, f"{scene.topic}-not")
    other.write(10)
    scene.start(client, assignor, topic=f"^{re.escape(scene.topic)}(-and|-late)?$")
    scene.settled(1)
    scene.all_read()
    if is_live:
        scene.create(f"{scene.topic}-late")
        scene.write(10, f"{scene.topic}-late")
        scene.settled(1)
        scene.all_read()
    scene.all_committed()


def broker_restart(scene: Scene, client: str, assignor: str):
    """The broker ends and comes back: the group goes on, and no commit is lost. It ends where this yields."""
    scene.write(10)
    scene.start(client, assignor)
    scene.start(client, assignor)
    scene.settled(2)
    scene.all_read()
    scene.all_committed()
    yield
    scene.connection = wire.Connection(scene.server.bootstrap)
    scene.all_committed()
    scene.write(10)
    scene.all_read(twice=True)
    scene.all_committed()


def together(scene: Scene, clients: list[str]):
    """Members of different clients in one group."""
    for client in clients:
        scene.start(client, "range")
    scene.settled(len(clients))
    scene.write(60)
    scene.all_read()
    check(all(member.records for member in scene.members), "every one reads")
    scene.all_committed()


def command_line(scene: Scene):
    """`coati consume --group` and `coati group`."""
    def coati(*words: str, fails: str = "") -> str:
        done = subprocess.run([str(broker.COATI), *words, "-b", scene.server.bootstrap], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
        check((done.returncode != 0) == bool(fails) and fails in done.stderr, f"coati {words}: {done.returncode} {done.stderr[-500:]}")
        return done.stdout

    def lags() -> list[int]:
        rows = [line.split() for line in coati("group", "describe", scene.group).splitlines()]
        return [int(row[4]) for row in rows if row[0] == scene.topic]

    scene.write(5)
    consume = ("consume", scene.topic, "--group", scene.group, "--from-beginning", "--format", "%p %o\\n", "--count")
    read = coati(*consume, "20").split("\n")[:-1]
    read += coati(*consume, str(5 * PARTITIONS - 20)).split("\n")[:-1]
    wanted = sorted(f"{partition} {offset}" for partition in range(PARTITIONS) for offset in range(5))
    check(sorted(read) == wanted, f"each record once: {read}")
    check(lags() == [0] * PARTITIONS, "all is committed")
    check(f"{scene.group} Empty" in " ".join(coati("group", "list").split()), "listed")
    reset = lambda *words: coati("group", "reset-offsets", scene.group, *words)
    reset("--topic", scene.topic, "--to-earliest")
    check(lags() == [0] * PARTITIONS, "a dry run changes nothing")
    reset("--topic", f"{scene.topic}:0,1", "--to-earliest", "--execute")
    check(lags() == [5, 5, *[0] * (PARTITIONS - 2)], f"two partitions are reset: {lags()}")
    reset("--shift-by", "-2", "--execute")
    check(lags() == [5, 5, *[2] * (PARTITIONS - 2)], f"shifted, not below the beginning: {lags()}")
    reset("--to-offset", "3", "--execute")
    check(lags() == [2] * PARTITIONS, f"to an offset: {lags()}")
    reset("--by-duration", "1h", "--execute")
    reset("--to-latest", "--execute")
    check(lags() == [0] * PARTITIONS, f"to the end: {lags()}")
    plan = scene.server.directory / "offsets.csv"
    plan.write_text(f"{scene.topic},2,1\n{scene.topic},3,4\n")
    reset("--from-file", str(plan), "--execute")
    check(lags() == [0, 0, 4, 1, *[0] * (PARTITIONS - 4)], f"from a file: {lags()}")
    coati("group", "delete-offsets", scene.group, "--topic", f"{scene.topic}:0")
    check(len(lags()) == PARTITIONS - 1, "one is forgotten")
    member = scene.start("kafka-python", "range")
    scene.settled(1)
    coati("group", "delete", scene.group, fails="NON_EMPTY_GROUP")
    coati("group", "reset-offsets", scene.group, "--to-latest", "--execute", fails="members")
    check("kafka-python" in coati("group", "describe", scene.group), "the member is shown")
    member.leave()
    coati("group", "delete", scene.group)
    coati("group", "describe", scene.group, fails="GROUP_ID_NOT_FOUND")


def scenes(clients: list[str]):
    """Title, what to play, and its arguments."""
    for client in clients:
        has = ABILITIES[client]
        for assignor in has.assignors:
            yield f"{client} {assignor}", comings_and_goings, client, assignor
        for assignor in has.assignors if has.is_steered else ():
            yield f"{client} {assignor} pauses, seeks and commits on the side", steering, client, assignor
        if has.patterns:
            yield f"{client} by a pattern", pattern, client, has.assignors[0], has.patterns == "live"
        if has.has_names:
            yield f"{client} under a name", static_restart, client, has.assignors[0]
        if "consumer" in has.assignors and has.patterns == "live":
            yield f"{client} consumer by a pattern", pattern, client, "consumer", True
        if has.migrates:
            yield f"{client} consumer under a name", static_return, client
            yield f"{client} from one protocol to the other", migration, client
    rangers = [client for client in clients if "range" in ABILITIES[client].assignors]
    if len(rangers) > 1:
        yield "all together", together, rangers
    if "kafka-python" in clients:
        yield "the command line", command_line


def restarts(clients: list[str]):
    for client in (client for client in clients if ABILITIES[client].survives):
        for assignor in {ABILITIES[client].assignors[0], *({"consumer"} & set(ABILITIES[client].assignors))}:
            yield f"{client} {assignor} and a killed broker", broker_restart, client, assignor


class Stage:
    """Plays scenes side by side and tells how each ended."""

    def __init__(self, server: broker.Broker, label: str):
        self.server, self.label, self.failed = server, label, 0
        self.pool = concurrent.futures.ThreadPoolExecutor(SCENES_AT_ONCE)

    def play(self, title: str, act, *rest):
        """Plays to the end, or to where the act yields: then what goes on with it."""
        began = time.monotonic()
        scene = Scene(self.server, re.sub(r"[^a-z-]", "-", title))
        return self.proceed(title, scene, began, lambda: act(scene, *rest))

    def proceed(self, title: str, scene: Scene, began: float, step):
        try:
            acting = step()
            if acting is not None and next(acting, self) is not self:
                return lambda: self.proceed(title, scene, began, lambda: acting)
            self.say(f"pass {self.label} groups: {title} ({time.monotonic() - began:.1f} s)")
        except Exception as error:  # Whatever it is, it is this case's result.
            self.failed += 1
            self.say(f"FAIL {self.label} groups: {title}: {error!r}")
        scene.end()
        return None

    @staticmethod
    def say(line: str):
        """In one piece, whoever else is speaking."""
        print(line + "\n", end="", flush=True)

    def play_all(self, chosen: list) -> list:
        return [more for more in self.pool.map(lambda one: self.play(*one), chosen) if more]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kind", choices=["coati", "kafka"])
    arguments.add_argument("--cores", type=int)
    arguments.add_argument("--client", nargs="*", default=list(ABILITIES))
    arguments.add_argument("--only", default="", help="scenes whose titles have this")
    options = arguments.parse_args()
    label = options.kind + (f"/{options.cores} cores" if options.cores else "")
    settings = {"offsets.topic.replication.factor": "1", "group.initial.rebalance.delay.ms": "500", "group.consumer.heartbeat.interval.ms": "500",
                "group.consumer.min.heartbeat.interval.ms": "500", "group.consumer.session.timeout.ms": "6000",
                "group.consumer.min.session.timeout.ms": "6000"}
    chosen = lambda scenes: [scene for scene in scenes if options.only in scene[0]]
    with broker.Broker(options.kind, settings, options.cores) as server:
        stage = Stage(server, label)
        stage.play_all(chosen(scenes(options.client)))
        if waiting := stage.play_all(chosen(restarts(options.client))):
            server.kill()
            server.start()
            list(stage.pool.map(lambda more: more(), waiting))
        if stage.failed:
            print(server.log()[-3000:])
    sys.exit(1 if stage.failed else 0)


if __name__ == "__main__":
    main()
