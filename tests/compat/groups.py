"""Consumer groups with the clients that people use: each client's members come, go, crash and come back under a name.

    groups.py coati|kafka [--cores N] [--client NAME…]

A member is a process, `CLIENT… BOOTSTRAP member GROUP TOPIC ASSIGNOR [INSTANCE]`; the assignor `consumer` means the consumer
protocol (KIP-848), whose assignors are the broker's. It prints `record PARTITION OFFSET` for each
record before it commits it, and leaves the group when its stdin ends. Records are written while nobody moves, so
that each must be read exactly once; only where a member dies between reading and committing may one come twice.
"""

import argparse
import collections
import pathlib
import struct
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

PARTITIONS = 6
DEADLINE_SECONDS = 40
# Assignors by client, and whether members can have names.
ABILITIES = {
    "kcat": (["range"], False), "rdkafka": (["range", "cooperative-sticky", "consumer"], True),
    "java": (["range", "cooperative-sticky", "consumer"], True),
    "franz-go": (["range", "cooperative-sticky"], True), "kafka-python": (["range"], True), "kafkajs": (["roundrobin"], False),
}


class Member:
    """A running client and what it has read."""

    def __init__(self, name: str, bootstrap: str, group: str, topic: str, assignor: str, instance: str = ""):
        self.name = name
        if name == "kcat":
            settings = {"auto.offset.reset": "earliest", "auto.commit.interval.ms": "100", "session.timeout.ms": "6000",
                        "heartbeat.interval.ms": "500", "partition.assignment.strategy": assignor}
            words = [word for key, value in settings.items() for word in ("-X", f"{key}={value}")]
            command = ["kcat", "-b", bootstrap, "-u", "-q", "-f", "record %p %o\\n", *words, "-G", group, topic]
        else:
            command = next(client.command for client in CLIENTS if client.name == name)
            command = [*command, bootstrap, "member", group, topic, assignor, *([instance] if instance else [])]
        self.records: list[tuple[int, int]] = []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            words = line.split()
            if words and words[0] == "record":
                self.records.append((int(words[1]), int(words[2])))

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
    """One group, its topic, and what was written to it."""

    def __init__(self, server: broker.Broker, name: str):
        self.server, self.group, self.topic = server, f"group-{name}", f"topic-{name}"
        self.connection = wire.Connection(server.bootstrap)
        self.written = 0
        answer = self.connection.ask("CreateTopics", 7, {"timeoutMs": 30000, "Topics": [
            {"Name": self.topic, "NumPartitions": PARTITIONS, "ReplicationFactor": 1}]})
        check(answer["Topics"][0]["ErrorCode"] == 0, f"creating {self.topic}: {answer}")
        self.members: list[Member] = []

    def start(self, client: str, assignor: str, instance: str = "") -> Member:
        member = Member(client, self.server.bootstrap, self.group, self.topic, assignor, instance)
        self.members.append(member)
        return member

    def write(self, each: int):
        for partition in range(PARTITIONS):
            records = wire.batch([b"value"] * each)
            body = {"Acks": -1, "TimeoutMs": 30000, "TopicData": [{"Name": self.topic, "PartitionData": [{"Index": partition, "Records": records}]}]}
            for _ in range(200):
                answer = self.connection.ask("Produce", 9, body)["Responses"][0]["PartitionResponses"][0]
                if answer["ErrorCode"] == 0:
                    break
                time.sleep(0.05)
            check(answer["ErrorCode"] == 0, f"producing: {answer}")
        self.written += each

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
        wanted = {(partition, offset) for partition in range(PARTITIONS) for offset in range(self.written)}
        self.until("all is read", lambda: wanted <= {record for member in self.members for record in list(member.records)})
        read = [record for member in self.members for record in member.records]
        check(set(read) == wanted, f"read more than was written: {sorted(set(read) - wanted)[:3]}")
        check(twice or len(read) == len(wanted), f"read {len(read)} records of {len(wanted)}: {self.counts()}")

    def all_committed(self):
        def committed():
            answer = self.connection.ask("OffsetFetch", 7, {"GroupId": self.group, "Topics": None})
            offsets = {p["PartitionIndex"]: p["CommittedOffset"] for topic in answer["Topics"] for p in topic["Partitions"]}
            return offsets == {partition: self.written for partition in range(PARTITIONS)}
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
            return group["GroupState"] == "Stable" and len(group["Members"]) == count and assigned == PARTITIONS
        self.until(f"{count} members agree", stable)
        return self.describe()

    def end(self):
        for member in self.members:
            if member.process.poll() is None:
                member.crash()


def comings_and_goings(scene: Scene, client: str, assignor: str):
    scene.write(40)
    first = scene.start(client, assignor)
    scene.all_read()
    scene.all_committed()
    second = scene.start(client, assignor)
    scene.settled(2)
    scene.write(30)
    scene.all_read()
    check(second.records and len(first.records) > 40 * PARTITIONS, "both read")
    scene.all_committed()
    second.crash()
    scene.settled(1)
    scene.write(20)
    scene.all_read()
    scene.all_committed()
    first.leave()
    scene.until("the group is empty", lambda: scene.describe()["GroupState"] == "Empty")
    scene.write(10)
    third = scene.start(client, assignor)
    scene.all_read()
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


def broker_restart(scene: Scene, client: str, assignor: str):
    """The broker ends and comes back: the group goes on, and no commit is lost."""
    scene.write(10)
    scene.start(client, assignor)
    scene.start(client, assignor)
    scene.settled(2)
    scene.all_read()
    scene.all_committed()
    scene.server.kill()
    scene.server.start()
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
    check(lags() == [5, 5, 0, 0, 0, 0], f"two partitions are reset: {lags()}")
    reset("--shift-by", "-2", "--execute")
    check(lags() == [5, 5, 2, 2, 2, 2], f"shifted, not below the beginning: {lags()}")
    reset("--to-offset", "3", "--execute")
    check(lags() == [2] * PARTITIONS, f"to an offset: {lags()}")
    reset("--by-duration", "1h", "--execute")
    reset("--to-latest", "--execute")
    check(lags() == [0] * PARTITIONS, f"to the end: {lags()}")
    plan = scene.server.directory / "offsets.csv"
    plan.write_text(f"{scene.topic},2,1\n{scene.topic},3,4\n")
    reset("--from-file", str(plan), "--execute")
    check(lags() == [0, 0, 4, 1, 0, 0], f"from a file: {lags()}")
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


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kind", choices=["coati", "kafka"])
    arguments.add_argument("--cores", type=int)
    arguments.add_argument("--client", nargs="*", default=list(ABILITIES))
    options = arguments.parse_args()
    label = options.kind + (f"/{options.cores} cores" if options.cores else "")
    settings = {"offsets.topic.replication.factor": "1", "group.initial.rebalance.delay.ms": "500", "group.consumer.heartbeat.interval.ms": "500",
                "group.consumer.min.heartbeat.interval.ms": "500", "group.consumer.session.timeout.ms": "6000",
                "group.consumer.min.session.timeout.ms": "6000"}
    failed = 0
    with broker.Broker(options.kind, settings, options.cores) as server:
        def play(title: str, act, *rest):
            nonlocal failed
            scene = Scene(server, title.replace(" ", "-").replace("'", ""))
            try:
                act(scene, *rest)
                print(f"pass {label} groups: {title}", flush=True)
            except Exception as error:  # Whatever it is, it is this case's result.
                failed += 1
                print(f"FAIL {label} groups: {title}: {error!r}", flush=True)
            finally:
                scene.end()

        for client in options.client:
            assignors, has_names = ABILITIES[client]
            for assignor in assignors:
                play(f"{client} {assignor}", comings_and_goings, client, assignor)
            if has_names:
                play(f"{client} under a name", static_restart, client, assignors[0])
            if "consumer" in assignors:
                play(f"{client} consumer under a name", static_return, client)
                play(f"{client} from one protocol to the other", migration, client)
                play(f"{client} consumer and a killed broker", broker_restart, client, "consumer")
        # kcat ends when its last connection does.
        for client in (client for client in options.client if client != "kcat"):
            play(f"{client} and a killed broker", broker_restart, client, ABILITIES[client][0][0])
        if "kafka-python" in options.client:
            play("the command line", command_line)
        rangers = [client for client in options.client if "range" in ABILITIES[client][0]]
        if len(rangers) > 1:
            play("all together", together, rangers)
        if failed:
            print(server.log()[-3000:])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
