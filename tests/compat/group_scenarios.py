"""What differential.py asks about groups: the classic protocol from every side, and offsets with and without it.

Members are `Peer`s, each with a connection of its own, as a JoinGroup waits for others. Every answer is recorded, in an
order that does not depend on which member is answered first.
"""

import struct
import time

import wire

VERSIONS = {
    "FindCoordinator": (0, 6), "JoinGroup": (0, 9), "SyncGroup": (0, 5), "Heartbeat": (0, 4), "LeaveGroup": (0, 5), "OffsetCommit": (2, 10),
    "OffsetFetch": (1, 10), "OffsetDelete": (0, 0), "DescribeGroups": (0, 6), "ListGroups": (0, 5), "DeleteGroups": (0, 3),
}
SETTINGS = {"group.initial.rebalance.delay.ms": "300", "group.min.session.timeout.ms": "500", "group.max.size": "3"}
TOPIC = "groups"
SESSION_MS, REBALANCE_MS = 20_000, 10_000
SCENARIOS = []


def scenario(function):
    SCENARIOS.append(function)
    return function


def versions(api: str) -> range:
    low, high = VERSIONS[api]
    return range(low, high + 1)


def best(api: str, version: int) -> int:
    """The version of an API that goes with a version of JoinGroup."""
    return min(version, VERSIONS[api][1])


def subscription(*topics: str) -> bytes:
    return struct.pack(">hi", 0, len(topics)) + b"".join(struct.pack(">h", len(t)) + t.encode() for t in topics) + struct.pack(">i", -1)


def assignment(*partitions: int) -> bytes:
    topic = struct.pack(">h", len(TOPIC)) + TOPIC.encode() + struct.pack(f">i{len(partitions)}i", len(partitions), *partitions)
    return struct.pack(">hi", 0, 1) + topic + struct.pack(">i", -1)


class Peer:
    """One member, or somebody who would be one."""

    def __init__(self, run, group: str, version: int = 9, **fields):
        self.run, self.group, self.version = run, group, version
        self.connection = wire.Connection(run.server.bootstrap)
        self.id, self.generation, self.instance = "", -1, fields.pop("instance", None)
        self.fields = {"SessionTimeoutMs": SESSION_MS, "RebalanceTimeoutMs": REBALANCE_MS, "ProtocolType": "consumer",
                       "Protocols": [{"Name": "range", "Metadata": subscription(TOPIC)}]} | fields
        self.sent = None

    def send(self, label: str, api: str, version: int, body: dict):
        self.sent = label, api, version
        self.connection.send(wire.API_KEYS[api], version, body)

    def take(self) -> dict:
        label, api, version = self.sent
        answer = self.connection.receive(wire.API_KEYS[api], version)
        self.run.record(label, api, version, answer)
        return answer

    def ask(self, label: str, api: str, version: int, body: dict) -> dict:
        self.send(label, api, version, body)
        return self.take()

    def named(self, body: dict, version: int, since: int) -> dict:
        if self.instance is not None and version >= since:
            body["GroupInstanceId"] = self.instance
        return body

    def begin_join(self, label: str, **fields):
        body = {"GroupId": self.group, "MemberId": self.id} | self.fields | fields
        self.send(label, "JoinGroup", self.version, self.named(body, self.version, 5))

    def end_join(self) -> dict:
        answer = self.take()
        self.id = answer["MemberId"] or self.id
        if answer["ErrorCode"] == 0:
            self.generation = answer["GenerationId"]
        return answer

    def join(self, label: str, **fields) -> dict:
        self.begin_join(label, **fields)
        return self.end_join()

    def enter(self, label: str):
        """Gets a member id first where the version wants that; its JoinGroup then waits."""
        if self.version >= 4 and not self.id and self.instance is None:
            self.join(f"{label} gets its id")
        self.begin_join(label)

    def begin_sync(self, label: str, assignments: dict | None = None, **fields):
        version = best("SyncGroup", self.version)
        body = {"GroupId": self.group, "GenerationId": self.generation, "MemberId": self.id,
                "Assignments": [{"MemberId": member, "Assignment": data} for member, data in (assignments or {}).items()]}
        if version >= 5:
            body |= {"ProtocolType": "consumer", "ProtocolName": "range"}
        self.send(label, "SyncGroup", version, self.named(body | fields, version, 3))

    def sync(self, label: str, assignments: dict | None = None, **fields) -> dict:
        self.begin_sync(label, assignments, **fields)
        return self.take()

    def heartbeat(self, label: str, **fields) -> dict:
        version = best("Heartbeat", self.version)
        body = {"GroupId": self.group, "GenerationId": self.generation, "MemberId": self.id} | fields
        return self.ask(label, "Heartbeat", version, self.named(body, version, 3))

    def hears(self, error: int):
        """Heartbeats until it is told so; nothing of that is compared."""
        version = best("Heartbeat", self.version)
        for _ in range(300):
            body = self.named({"GroupId": self.group, "GenerationId": self.generation, "MemberId": self.id}, version, 3)
            if self.connection.ask("Heartbeat", version, body)["ErrorCode"] == error:
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.run.server.kind}: {self.group} does not come to {error}")

    def commit(self, label: str, offset: int, version: int = 8, **fields) -> dict:
        body = {"GroupId": self.group, "GenerationIdOrMemberEpoch": self.generation, "MemberId": self.id,
                "Topics": [{"Name": TOPIC, "Partitions": [{"PartitionIndex": 0, "CommittedOffset": offset, "CommittedMetadata": "m"}]}]}
        return self.ask(label, "OffsetCommit", version, self.named(body | fields, version, 7))

    def leave(self, label: str, *members: dict) -> dict:
        version = best("LeaveGroup", self.version)
        body = {"GroupId": self.group}
        if version < 3:
            body["MemberId"] = self.id
        else:
            own = {"MemberId": self.id, "GroupInstanceId": self.instance}
            body["Members"] = list(members) or [own]
        return self.ask(label, "LeaveGroup", version, body)

    def describe(self, label: str):
        version = best("DescribeGroups", self.version)
        self.ask(label, "DescribeGroups", version, {"Groups": [self.group]})


def stable(run, group: str, count: int = 1, version: int = 9, quiet: str = "", **fields) -> list[Peer]:
    """A group whose members have joined and synced, the leader first."""
    instances = fields.pop("instances", [None] * count)
    peers = [Peer(run, group, version, instance=instance, **fields) for instance in instances]
    for number, peer in enumerate(peers):
        peer.enter(f"{quiet}member {number} joins")
        has_members(run, group, number + 1)
    answers = [peer.end_join() for peer in peers]
    peers.sort(key=lambda peer: peer.id != answers[0]["Leader"])
    share_out(peers, quiet)
    return peers


def has_members(run, group: str, count: int):
    """Returns when so many have joined: who is first leads, and connections do not keep each other's order."""
    for _ in range(2_000):
        if len(run.quietly("DescribeGroups", 0, {"Groups": [group]})["Groups"][0]["Members"]) == count:
            return
    raise AssertionError(f"{run.server.kind}: {group} does not come to {count} members")


def share_out(peers: list[Peer], quiet: str = ""):
    """Everyone syncs; each gets the partition of its number."""
    for number, peer in enumerate(peers[1:], 1):
        peer.begin_sync(f"{quiet}member {number} syncs")
    peers[0].sync(f"{quiet}the leader syncs", {peer.id: assignment(number) for number, peer in enumerate(peers)})
    for peer in peers[1:]:
        peer.take()


def prepare(run):
    """The topic that is consumed, and a broker whose coordinators are up."""
    answer = run.quietly("CreateTopics", 7, {"timeoutMs": 30000, "Topics": [{"Name": TOPIC, "NumPartitions": 4, "ReplicationFactor": 1}]})
    if answer["Topics"][0]["ErrorCode"] not in (0, 36):
        raise AssertionError(answer)
    run.ready(TOPIC, partitions=4)
    for _ in range(600):
        if run.quietly("FindCoordinator", 2, {"Key": "g", "KeyType": 0})["ErrorCode"] == 0 \
                and run.quietly("DescribeGroups", 0, {"Groups": ["nobody"]})["Groups"][0]["ErrorCode"] == 0:
            return
        time.sleep(0.1)
    raise AssertionError("no coordinator")


@scenario
def find_coordinator(run):
    prepare(run)
    one = lambda key, kind: lambda version: {"CoordinatorKeys": [key], "KeyType": kind} if version >= 4 else {"Key": key, "KeyType": kind}
    run.each("of a group", "FindCoordinator", one("g", 0))
    run.each("of the empty group", "FindCoordinator", one("", 0))
    run.each("of an unknown kind", "FindCoordinator", one("g", 9), range(1, 7))
    run.each("of several", "FindCoordinator", {"CoordinatorKeys": ["a", "b", "a"], "KeyType": 0}, range(4, 7))
    run.each("of none", "FindCoordinator", {"CoordinatorKeys": [], "KeyType": 0}, range(4, 7))
    run.each("of the offsets", "DeleteRecords", {"TimeoutMs": 10000, "Topics": [
        {"Name": "__consumer_offsets", "Partitions": [{"PartitionIndex": 0, "Offset": -1}]}]})


@scenario
def group_life(run):
    """One member from its first request to a deleted group, in every version."""
    prepare(run)
    for version in versions("JoinGroup"):
        group = f"life-{version}"
        peer = Peer(run, group, version)
        peer.describe("before it is")
        peer.enter("joins")
        peer.end_join()
        peer.describe("before it has synced")
        peer.commit("before it has synced", 1)
        peer.sync("syncs", {peer.id: assignment(0, 1, 2, 3)})
        peer.describe("is stable")
        peer.heartbeat("is alive")
        peer.sync("syncs again")
        peer.commit("commits", 7)
        run.ask("of a stable group", "DeleteGroups", best("DeleteGroups", version), {"GroupsNames": [group]})
        peer.leave("leaves")
        peer.heartbeat("has left")
        peer.describe("is empty")
        peer.commit("as the member that it was", 8)
        run.ask("of an empty group", "DeleteGroups", best("DeleteGroups", version), {"GroupsNames": [group]})
        peer.describe("is gone")
        run.ask("of a deleted group", "OffsetFetch", 7, {"GroupId": group, "Topics": [{"Name": TOPIC, "PartitionIndexes": [0]}]})


@scenario
def group_strangers(run):
    """Who is not a member, of a group that there is, and of one that there is not."""
    prepare(run)
    stable(run, "strangers", quiet="first: ")
    for group in ("strangers", "no-group", ""):
        for member in ("", "someone"):
            label = f"{member or 'nobody'} of {group or 'the empty group'}"
            known = {"GroupId": group, "MemberId": member, "GenerationId": 1}
            # A join without a member id would begin to wait in the oldest versions.
            joining = {"GroupId": group, "MemberId": member} | {"SessionTimeoutMs": SESSION_MS, "RebalanceTimeoutMs": 1000, "ProtocolType": "consumer",
                               "Protocols": [{"Name": "range", "Metadata": subscription(TOPIC)}]}
            if member or not group:
                run.each(label, "JoinGroup", joining)
                run.each(f"static {label}", "JoinGroup", joining | {"GroupInstanceId": "i"}, range(5, 10))
            run.each(label, "SyncGroup", lambda version: known | ({"ProtocolType": "consumer", "ProtocolName": "range"} if version >= 5 else {}))
            run.each(label, "Heartbeat", known)
            run.each(f"static {label}", "Heartbeat", known | {"GroupInstanceId": "i"}, range(3, 5))
            run.each(label, "LeaveGroup", lambda version: {"GroupId": group, "MemberId": member} if version < 3 else
                     {"GroupId": group, "Members": [{"MemberId": member}, {"MemberId": member, "GroupInstanceId": "i"}]})
            for generation in (-1, 0, 1):
                if generation < 0 and not member:
                    continue  # That is what offsets are about.
                run.each(f"{label} in generation {generation}", "OffsetCommit", lambda version: {
                    "GroupId": group, "MemberId": member, "GenerationIdOrMemberEpoch": generation, "Topics": [
                        ({"TopicId": run.topic_id(TOPIC)} if version >= 10 else {"Name": TOPIC})
                        | {"Partitions": [{"PartitionIndex": 0, "CommittedOffset": 5, "CommittedMetadata": ""}]}]})
        run.each(group or "the empty group", "DescribeGroups", {"Groups": [group]})
        if group != "strangers":
            run.each(group or "the empty group", "DeleteGroups", {"GroupsNames": [group]})
    run.each("several", "DescribeGroups", lambda version: {"Groups": ["strangers", "no-group", "strangers"]} | (
        {"IncludeAuthorizedOperations": True} if version >= 3 else {}))
    run.each("several", "DeleteGroups", {"GroupsNames": ["no-group", "strangers", "other"]})


@scenario
def group_bad_joins(run):
    prepare(run)
    peer = Peer(run, "bad-joins")
    protocols = lambda *names: [{"Name": name, "Metadata": subscription(TOPIC)} for name in names]
    for label, fields in {
        "session too short": {"SessionTimeoutMs": 499}, "session too long": {"SessionTimeoutMs": 1_800_001}, "no protocol type": {"ProtocolType": ""},
        "no protocols": {"Protocols": []}, "a member id of its own": {"MemberId": "mine"},
    }.items():
        for version in versions("JoinGroup"):
            peer.version, peer.group, peer.id = version, f"bad-joins-{version}", ""
            peer.join(label, **fields)
            peer.id = ""
    (leader,) = stable(run, "joins")
    for label, fields in {"another type": {"ProtocolType": "connect"}, "another protocol": {"Protocols": protocols("roundrobin")}}.items():
        other = Peer(run, "joins")
        other.join(label, **fields)
        other.instance = "i"
        other.join(f"static, {label}", **fields)
    leader.sync("another type", ProtocolType="connect")
    leader.sync("another protocol", ProtocolName="roundrobin")
    leader.sync("no protocol", ProtocolName=None)
    leader.sync("another generation", GenerationId=9)
    leader.heartbeat("another generation", GenerationId=9)
    leader.heartbeat("with an instance that is not its own", GroupInstanceId="x")
    leader.commit("another generation", 5, GenerationIdOrMemberEpoch=9)
    leader.commit("a negative generation", 5, GenerationIdOrMemberEpoch=-1)
    leader.commit("with an instance that is not its own", 5, GroupInstanceId="x")
    leader.heartbeat("is still stable")
    waiting = Peer(run, "joins")
    waiting.join("is given an id")
    waiting.heartbeat("with a pending id", GenerationId=1)
    waiting.leave("with a pending id")
    leader.hears(27)
    leader.begin_join("after somebody with a pending id has left")
    leader.end_join()
    leader.sync("the leader assigns nobody")
    leader.describe("with an empty assignment")


@scenario
def group_rebalances(run):
    """Members come and go, the others notice and meet again."""
    prepare(run)
    for version in (1, 3, 4, 5, 9):
        group = f"rebalances-{version}"
        (first,) = stable(run, group, version=version)
        second = Peer(run, group, version)
        second.enter("a second one")
        first.hears(27)
        first.heartbeat("while it prepares")
        first.commit("while it prepares", 3)
        first.sync("while it prepares")
        first.begin_join("the first one again")
        peers = [first, second]
        for peer in peers:
            peer.end_join()
        first.commit("before it is assigned", 4)
        share_out(peers)
        first.describe("two members")
        second.join("joins again with what it said before")
        second.sync("is assigned what it was")
        first.begin_join("the leader joins again")
        second.hears(27)
        second.begin_join("and so does the other")
        for peer in peers:
            peer.end_join()
        second.join("again, before the leader has synced")
        share_out(peers)
        second.begin_join("says something new", Protocols=[{"Name": "range", "Metadata": subscription(TOPIC, "other")}])
        first.hears(27)
        first.begin_join("and the leader meets it")
        for peer in peers:
            peer.end_join()
        share_out(peers)
        second.leave("leaves")
        first.hears(27)
        first.join("is alone")
        first.sync("assigns itself", {first.id: assignment(0, 1, 2, 3)})
        first.leave("leaves, too")
        first.describe("is empty")


@scenario
def group_votes(run):
    """Each votes for the first of its protocols that all know."""
    prepare(run)
    said = [["a", "b", "c"], ["c", "b", "d"], ["b", "c"]]
    peers = [Peer(run, "votes", Protocols=[{"Name": name, "Metadata": name.encode() + subscription(TOPIC)} for name in names]) for names in said]
    for number, peer in enumerate(peers):
        peer.enter(f"member {number}")
        has_members(run, "votes", number + 1)
    for peer in peers:
        peer.end_join()
    other = Peer(run, "votes", Protocols=[{"Name": "d", "Metadata": b""}])
    other.join("knows none that all know")
    connect = Peer(run, "connect", ProtocolType="connect", Protocols=[{"Name": "sessioned", "Metadata": b"\1\2"}, {"Name": "default", "Metadata": b"\3"}])
    connect.enter("a worker")
    connect.end_join()
    connect.sync("a worker", {connect.id: b"\5\6"}, ProtocolType="connect", ProtocolName="sessioned")
    connect.describe("of workers")
    run.ask("of workers", "OffsetDelete", 0, {"GroupId": "connect", "Topics": [{"Name": TOPIC, "Partitions": [{"PartitionIndex": 0}]}]})


@scenario
def group_sizes(run):
    prepare(run)
    peers = stable(run, "sizes", 3)
    Peer(run, "sizes").join("a fourth")
    Peer(run, "sizes", 3).join("a fourth, in an older version")
    Peer(run, "sizes", instance="i").join("a fourth, static")
    peers[1].leave("one leaves")
    peers[0].hears(27)
    fourth = Peer(run, "sizes")
    fourth.enter("then there is room")
    for peer in (peers[0], peers[2]):
        peer.begin_join("meets again")
    for peer in (peers[0], peers[2], fourth):
        peer.end_join()


@scenario
def group_static(run):
    """KIP-345: a member that comes back under its name."""
    prepare(run)
    for version in range(5, 10):
        group = f"static-{version}"
        peers = stable(run, group, version=version, instances=["one", "two"])
        for number, old in enumerate(peers):
            new = Peer(run, group, version, instance=old.instance)
            new.join(f"{number} comes back")
            old.heartbeat(f"{number} as it was")
            old.commit(f"{number} as it was", 5)
            old.sync(f"{number} as it was")
            old.join(f"{number} as it was")
            old.leave(f"{number} as it was")
            new.sync(f"{number} comes back")
            new.heartbeat(f"{number} came back")
            new.commit(f"{number} came back", 6)
            peers[number] = new
        peers[0].describe("came back")
        other = Peer(run, group, version, instance="one", Protocols=[{"Name": "roundrobin", "Metadata": b""}])
        other.join("comes back with a protocol that the others do not know")
        back = Peer(run, group, version, instance="two", Protocols=[{"Name": "range", "Metadata": subscription("other")}])
        back.join("comes back with another subscription")
        back.sync("comes back with another subscription")
        peers[0].leave("by name", {"MemberId": "", "GroupInstanceId": "two"}, {"MemberId": "", "GroupInstanceId": "nobody"},
                       {"MemberId": "x", "GroupInstanceId": "one"})
        peers[0].hears(27)
        peers[0].join("alone")
        twin = Peer(run, group, version, instance="one")
        twin.begin_join("comes back before all is assigned")
        peers[0].hears(82)
        twin.end_join()
        twin.sync("assigns itself", {twin.id: assignment(0)})


@scenario
def group_sessions(run):
    """Members that fall silent, with and without having done what is expected."""
    prepare(run)
    loud, silent = stable(run, "silent", 2, SessionTimeoutMs=3_000)
    silent.connection.close()
    loud.hears(27)
    loud.join("is alone")
    loud.sync("is alone", {loud.id: assignment(0)})
    # Joins and never syncs.
    (loud,) = stable(run, "unsynced", RebalanceTimeoutMs=2_000)
    lazy = Peer(run, "unsynced", RebalanceTimeoutMs=2_000)
    lazy.enter("joins and never syncs")
    loud.hears(27)
    loud.begin_join("meets it")
    for peer in (loud, lazy):
        peer.end_join()
    loud.sync("alone", {loud.id: assignment(0)})
    loud.hears(27)
    lazy.heartbeat("has not synced")
    # Does not join again in time.
    (slow,) = stable(run, "late", RebalanceTimeoutMs=2_000)
    fast = Peer(run, "late", RebalanceTimeoutMs=2_000)
    fast.enter("does not wait for ever")
    fast.end_join()
    slow.heartbeat("comes late")
    slow.join("comes late")
    # Was given an id and does not use it.
    (loud,) = stable(run, "pending")
    Peer(run, "pending", SessionTimeoutMs=1_000).join("is given an id")
    loud.join("the leader joins again")


@scenario
def group_lists(run):
    prepare(run)
    stable(run, "listed")
    run.quietly("OffsetCommit", 2, {"GroupId": "simple", "GenerationIdOrMemberEpoch": -1, "MemberId": "", "RetentionTimeMs": -1, "Topics": [
        {"Name": TOPIC, "Partitions": [{"PartitionIndex": 0, "CommittedOffset": 1, "CommittedMetadata": ""}]}]})
    for label, states, types in (("all", [], []), ("stable", ["Stable"], []), ("empty, small letters", ["empty"], []), ("of no state", ["Nonsense"], []),
                                 ("classic", [], ["classic"]), ("consumer", [], ["CONSUMER"]), ("of no type", [], ["nonsense"])):
        for version in versions("ListGroups"):
            if version < 4 and states or version < 5 and types:
                continue
            body = ({"StatesFilter": states} if version >= 4 else {}) | ({"TypesFilter": types} if version >= 5 else {})
            peer = Peer(run, "nobody")
            peer.connection.send(wire.API_KEYS["ListGroups"], version, body)
            answer = peer.connection.receive(wire.API_KEYS["ListGroups"], version)
            answer["Groups"] = [group for group in answer["Groups"] if group["GroupId"] in ("listed", "simple")]
            run.record(label, "ListGroups", version, answer)


@scenario
def offsets(run):
    """Commits of somebody who is no member."""
    prepare(run)
    topic_id = run.topic_id(TOPIC)
    name = lambda version: {"TopicId": topic_id} if version >= 10 else {"Name": TOPIC}
    partition = lambda index, offset, metadata="", epoch=-1: {
        "PartitionIndex": index, "CommittedOffset": offset, "CommittedMetadata": metadata, "CommittedLeaderEpoch": epoch}

    def commit(label, *partitions, group="offsets", other=None, versions=None):
        run.each(label, "OffsetCommit", lambda version: {
            "GroupId": f"{group}-{version}" if group else "", "GenerationIdOrMemberEpoch": -1, "MemberId": "",
            "Topics": [(other(version) if other else name(version)) | {"Partitions": list(partitions)}]}, versions)

    def fetch(label, version, topics, group):
        one = {"Topics": topics, "GroupId": group}
        body = {"Groups": [one]} if version >= 8 else one
        run.ask(label, "OffsetFetch", version, body | ({"RequireStable": True} if version >= 7 else {}))

    def read(label, group="offsets", committed=6):
        for version in versions("OffsetFetch"):
            wanted = [name(version) | {"PartitionIndexes": [0, 1, 2, 77]}]
            fetch(label, version, wanted, f"{group}-{committed}" if group else "")
            if version >= 2:
                fetch(f"{label}, all", version, None, f"{group}-{committed}" if group else "")
            fetch(f"{label}, none", version, [], f"{group}-{committed}" if group else "")

    commit("two partitions", partition(0, 5), partition(1, 6, "said", 0))
    read("after a commit")
    commit("again, one of them", partition(0, 3, None))
    commit("partitions that are not there", partition(0, 4), partition(99, 4), partition(-1, 4))
    commit("a topic that is not there", partition(0, 4), other=lambda version: {"TopicId": "11111111-1111-1111-1111-111111111111"} if version >= 10 else {"Name": "absent"})
    commit("a negative offset", partition(2, -1), partition(3, -7))
    commit("long metadata", partition(2, 1, "x" * 4096), partition(3, 1, "y" * 4097))
    commit("no partitions")
    commit("the empty group", partition(0, 4), group="")
    read("after all", committed=7)
    read("the empty group", group="")
    read("a group that is not there", group="never", committed=1)
    run.ask("kept for an hour", "OffsetCommit", 3, {"GroupId": "hour", "GenerationIdOrMemberEpoch": -1, "MemberId": "", "RetentionTimeMs": 3_600_000,
                                                   "Topics": [{"Name": TOPIC, "Partitions": [partition(0, 1)]}]})
    fetch("kept for an hour", 5, [{"Name": TOPIC, "PartitionIndexes": [0]}], "hour")
    run.each("several groups", "OffsetFetch", lambda version: {"Groups": [
        {"GroupId": "offsets-6", "Topics": None}, {"GroupId": "never-1", "Topics": [name(version) | {"PartitionIndexes": [0]}]}, {"GroupId": "hour", "Topics": None}]},
        range(8, 11))
    run.ask("a topic id that is not there", "OffsetFetch", 10, {"Groups": [{"GroupId": "offsets-6", "Topics": [
        {"TopicId": "11111111-1111-1111-1111-111111111111", "PartitionIndexes": [0]}, {"TopicId": topic_id, "PartitionIndexes": [0]}]}]})
    run.ask("a topic that is not there", "OffsetFetch", 8, {"Groups": [{"GroupId": "offsets-6", "Topics": [{"Name": "absent", "PartitionIndexes": [0]}]}]})
    many = [{"PartitionIndex": index % 4, "CommittedOffset": index, "CommittedMetadata": "z" * 4000} for index in range(300)]
    run.ask("more than a batch holds", "OffsetCommit", 8, {"GroupId": "large", "GenerationIdOrMemberEpoch": -1, "MemberId": "", "Topics": [
        {"Name": TOPIC, "Partitions": many}]})


@scenario
def offset_deletes(run):
    prepare(run)
    run.quietly("CreateTopics", 7, {"timeoutMs": 30000, "Topics": [{"Name": "doomed", "NumPartitions": 2, "ReplicationFactor": 1}]})
    run.ready("doomed", partitions=2)
    (peer,) = stable(run, "deletes")
    every = [{"Name": topic, "Partitions": [{"PartitionIndex": 0, "CommittedOffset": 4}, {"PartitionIndex": 1, "CommittedOffset": 5}]} for topic in (TOPIC, "doomed")]
    peer.commit("before", 1, Topics=every)
    body = lambda group, *topics: {"GroupId": group, "Topics": [{"Name": topic, "Partitions": [{"PartitionIndex": p} for p in partitions]} for topic, partitions in topics]}
    left = lambda label, group: run.ask(label, "OffsetFetch", 6, {"GroupId": group, "Topics": None})
    run.ask("of a topic that is subscribed to, and others", "OffsetDelete", 0, body("deletes", (TOPIC, [0, 9]), ("doomed", [0, 7]), ("absent", [0])))
    left("after deleting", "deletes")
    run.ask("of nothing that is there", "OffsetDelete", 0, body("deletes", ("absent", [0])))
    run.ask("of no group", "OffsetDelete", 0, body("no-group", (TOPIC, [0])))
    run.ask("of the empty group", "OffsetDelete", 0, body("", (TOPIC, [0])))
    peer.leave("leaves")
    run.ask("of a group without members", "OffsetDelete", 0, body("deletes", (TOPIC, [0, 3])))
    left("when the group is empty", "deletes")
    run.quietly("DeleteTopics", 5, {"TopicNames": ["doomed"], "TimeoutMs": 30000})
    for _ in range(200):
        answer = run.quietly("OffsetFetch", 6, {"GroupId": "deletes", "Topics": None})
        if all(topic["Name"] != "doomed" for topic in answer["Topics"]):
            break
        time.sleep(0.05)
    left("when the topic is gone", "deletes")


@scenario
def group_too_large(run):
    """More than a record of the log holds."""
    prepare(run)
    peer = Peer(run, "huge", Protocols=[{"Name": "range", "Metadata": subscription(TOPIC) + b"u" * 700_000}])
    peer.enter("says much")
    peer.end_join()
    peer.sync("and is assigned much", {peer.id: b"a" * 700_000})
    peer.describe("after that")
