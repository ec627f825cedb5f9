"""What differential.py asks about groups of the consumer protocol (KIP-848): heartbeats from every side, epochs, both ways
of migration. Members choose ids of one letter, so that both brokers come to them in the same order.
"""

import time

import group_scenarios
from group_scenarios import TOPIC, Peer, prepare

VERSIONS = {"ConsumerGroupHeartbeat": (0, 1), "ConsumerGroupDescribe": (0, 1)}
SETTINGS = {"group.consumer.assignment.interval.ms": "0", "group.consumer.min.session.timeout.ms": "1000", "group.consumer.max.size": "3",
            "group.consumer.min.heartbeat.interval.ms": "100"}
SCENARIOS = []
GROUP_RESOURCE = 32


def scenario(function):
    SCENARIOS.append(function)
    return function


class Member:
    """A member of the consumer protocol: its epoch, and what it was given."""

    def __init__(self, run, group: str, member: str, version: int = 1, topics=(TOPIC,), **fields):
        self.run, self.group, self.id, self.version = run, group, member, version
        self.epoch, self.owned = 0, []
        self.topics, self.fields = list(topics), fields

    def body(self, **fields) -> dict:
        body = {"GroupId": self.group, "MemberId": self.id, "MemberEpoch": self.epoch} | self.fields | fields
        return {name: value for name, value in body.items() if name != "SubscribedTopicRegex" or self.version >= 1}

    def hear(self, answer: dict) -> dict:
        if answer["ErrorCode"] == 0:
            self.id, self.epoch = answer["MemberId"], answer["MemberEpoch"]
            if answer["Assignment"] is not None:
                self.owned = answer["Assignment"]["TopicPartitions"]
        return answer

    def beat(self, label: str, **fields) -> dict:
        """A heartbeat that says what the member has, unless told otherwise."""
        return self.hear(self.run.ask(label, "ConsumerGroupHeartbeat", self.version, self.body(**({"TopicPartitions": self.owned} | fields))))

    def joining(self, **fields) -> dict:
        return self.body(**({"MemberEpoch": 0, "RebalanceTimeoutMs": 30_000, "SubscribedTopicNames": self.topics, "TopicPartitions": []} | fields))

    def join(self, label: str, **fields) -> dict:
        return self.hear(self.run.ask(label, "ConsumerGroupHeartbeat", self.version, self.joining(**fields)))

    def quietly(self, **fields) -> dict:
        return self.hear(self.run.quietly("ConsumerGroupHeartbeat", self.version, self.body(**({"TopicPartitions": self.owned} | fields))))

    def leave(self, label: str, epoch: int = -1, **fields) -> dict:
        return self.run.ask(label, "ConsumerGroupHeartbeat", self.version, self.body(MemberEpoch=epoch, **fields))

    def commit(self, label: str, version: int = 9, epoch: int | None = None, partitions=(0,), **fields):
        topic = {"TopicId": self.run.topic_id(TOPIC)} if version >= 10 else {"Name": TOPIC}
        self.run.ask(label, "OffsetCommit", version, {
            "GroupId": self.group, "MemberId": self.id, "GenerationIdOrMemberEpoch": self.epoch if epoch is None else epoch,
            "Topics": [topic | {"Partitions": [{"PartitionIndex": p, "CommittedOffset": 5, "CommittedMetadata": ""} for p in partitions]}]} | fields)

    def fetch(self, label: str, version: int = 9, epoch: int | None = None, member: str | None = None):
        topic = {"TopicId": self.run.topic_id(TOPIC)} if version >= 10 else {"Name": TOPIC}
        self.run.ask(label, "OffsetFetch", version, {"Groups": [{
            "GroupId": self.group, "MemberId": self.id if member is None else member, "MemberEpoch": self.epoch if epoch is None else epoch,
            "Topics": [topic | {"PartitionIndexes": [0, 1]}]}]})

    def describe(self, label: str):
        describe(self.run, label, self.group)


def describe(run, label: str, group: str):
    for version in range(2):
        run.ask(label, "ConsumerGroupDescribe", version, {"GroupIds": [group]})
    for version in (5, 6):
        run.ask(label, "DescribeGroups", version, {"Groups": [group]})
    listed = run.quietly("ListGroups", 5, {"StatesFilter": [], "TypesFilter": []})
    run.record(f"{label}, listed", "ListGroups", 5, [one for one in listed["Groups"] if one["GroupId"] == group])


def until(run, what: str, holds):
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError(f"{run.server.kind}: {what} does not come")


def settled(run, *members: Member):
    """Everybody heartbeats until nobody hears of anything new."""
    for _ in range(6):
        for member in members:
            member.quietly()


@scenario
def consumer_group_life(run):
    """One member from its first heartbeat to a deleted group."""
    prepare(run)
    for version in range(2):
        member = Member(run, f"consumer-{version}", "a", version)
        member.describe("before it is")
        member.join("joins")
        member.describe("is stable")
        member.beat("is alive")
        member.beat("is alive, and says nothing", TopicPartitions=None)
        member.beat("says all", RebalanceTimeoutMs=30_000, SubscribedTopicNames=[TOPIC])
        member.beat("wants another assignor", ServerAssignor="range")
        member.describe("has another assignor")
        for commit in (8, 9, 10):
            member.commit("commits", commit)
            member.commit("commits at another epoch", commit, member.epoch + 1)
            member.commit("commits at an older epoch", commit, member.epoch - 1)
            member.commit("commits as nobody", commit, -1, MemberId="")
            member.commit("commits as a stranger", commit, MemberId="stranger")
        for fetch in (9, 10):
            member.fetch("fetches", fetch)
            member.fetch("fetches at another epoch", fetch, member.epoch + 1)
            member.fetch("fetches as a stranger", fetch, member="stranger")
        run.ask("as no member", "OffsetFetch", 8, {"Groups": [{"GroupId": member.group, "Topics": None}]})
        run.ask("of a topic that is subscribed to", "OffsetDelete", 0, {"GroupId": member.group, "Topics": [{"Name": TOPIC, "Partitions": [{"PartitionIndex": 0}]}]})
        run.ask("of a group with members", "DeleteGroups", 2, {"GroupsNames": [member.group]})
        member.leave("leaves")
        member.describe("is empty")
        member.beat("has left")
        run.ask("of an empty group", "DeleteGroups", 2, {"GroupsNames": [member.group]})
        member.describe("is gone")


@scenario
def consumer_group_refusals(run):
    """What is wrong with a request whatever the group."""
    prepare(run)
    for version in range(2):
        member = Member(run, f"refused-{version}", "a", version)
        refused = lambda label, **fields: member.join(label, **fields)
        if version:
            refused("no id", MemberId="")
            refused("a pattern that is none", SubscribedTopicRegex="(")
            refused("look-around", SubscribedTopicRegex="(?=a)")
        refused("a blank id", MemberId=" ", MemberEpoch=1)
        refused("no group", GroupId="")
        refused("a blank instance", InstanceId=" ")
        refused("a blank rack", RackId="")
        refused("no time-out", RebalanceTimeoutMs=-1)
        refused("partitions", TopicPartitions=None)
        refused("some partitions", TopicPartitions=[{"TopicId": run.topic_id(TOPIC), "Partitions": [0]}])
        refused("no subscription", SubscribedTopicNames=None)
        refused("an epoch below all", MemberEpoch=-3)
        refused("a static leave without a name", MemberEpoch=-2)
        refused("an assignor that is none", ServerAssignor="sticky")
        member.leave("leaves no group")
        member.beat("is in no group", MemberEpoch=1)
        member.describe("is not there")
        member.join("joins")
        member.beat("too new an epoch", MemberEpoch=9)
        member.beat("too old an epoch", MemberEpoch=1)
        member.beat("a stranger", MemberId="x", MemberEpoch=1)
        member.leave("a stranger leaves", MemberId="x")
        member.beat("a static stranger", InstanceId="x", MemberEpoch=1)
        member.leave("a static stranger leaves", InstanceId="x")
        member.leave("leaves")
    run.each("several groups", "ConsumerGroupDescribe", {"GroupIds": ["no-group", "", "no-group"], "IncludeAuthorizedOperations": True})


@scenario
def consumer_group_reconciles(run):
    """Partitions go from one member to another, a step at a time."""
    prepare(run)
    for assignor in ("uniform", "range"):
        a, b, c, d = (Member(run, f"reconcile-{assignor}", name, ServerAssignor=assignor) for name in "abcd")
        a.join("the first joins")
        b.join("the second joins")
        a.describe("nobody has given anything up")
        a.beat("the first hears that it is to give up", TopicPartitions=None)
        b.beat("the second waits")
        a.beat("the first has not given up yet", TopicPartitions=[{"TopicId": run.topic_id(TOPIC), "Partitions": [0, 1, 2, 3]}])
        a.commit("what is being given up", partitions=(3,))
        a.beat("the first has given up")
        a.beat("the first has given up, again")
        a.describe("something is free")
        b.beat("the second takes it")
        a.describe("all have theirs")
        a.commit("what it has, at the epoch before", epoch=a.epoch - 1, partitions=(0,))
        b.commit("what it has, at the epoch before", epoch=b.epoch - 1, partitions=(3,))
        c.join("the third joins")
        settled(run, a, b, c)
        a.describe("three")
        d.join("the fourth is too many")
        b.leave("the second leaves")
        settled(run, a, c)
        a.describe("two")
        a.beat("wants nothing any more", SubscribedTopicNames=[], TopicPartitions=None)
        a.describe("one that wants something")
        settled(run, a, c)
        a.describe("one has all")
        a.beat("repeats an epoch", MemberEpoch=a.epoch - 1)
        c.beat("repeats an epoch", MemberEpoch=c.epoch - 1)
        a.join("joins again")
        a.beat("at its epoch")


@scenario
def consumer_group_static(run):
    prepare(run)
    a, b = Member(run, "static-members", "a", InstanceId="i"), Member(run, "static-members", "b")
    a.join("the static one joins")
    b.join("the other joins")
    settled(run, a, b)
    again = Member(run, "static-members", "c", InstanceId="i")
    again.join("its name is taken")
    a.beat("says nothing of its name", InstanceId=None)
    a.leave("goes for a while", -2)
    a.describe("while it is away")
    a.beat("while it is away")
    b.beat("the other does not notice")
    again.join("comes back under another id")
    a.describe("when it is back")
    a.beat("the old id is fenced")
    a.leave("the old id leaves")
    settled(run, again, b)
    again.leave("goes for a while again", -2)
    again.join("comes back under the same id")
    again.leave("goes for good")
    settled(run, b)
    b.describe("without it")


@scenario
def consumer_group_patterns(run):
    prepare(run)
    for name in ("pattern-one", "pattern-two"):
        run.quietly("CreateTopics", 7, {"timeoutMs": 30000, "Topics": [{"Name": name, "NumPartitions": 1, "ReplicationFactor": 1}]})
    run.ready("pattern-one", "pattern-two")
    a = Member(run, "patterns", "a", topics=[])
    a.join("joins by a pattern", SubscribedTopicRegex="pattern-(one|two)", SubscribedTopicNames=None)

    def has_both() -> bool:
        a.quietly()
        return len(a.owned) == 2
    until(run, "the topics of the pattern", has_both)
    a.beat("has them")
    a.describe("has them")
    b = Member(run, "patterns", "b", topics=["pattern-one"])
    b.join("joins by name")
    settled(run, a, b)
    a.describe("by pattern and by name")
    a.beat("another pattern is none", SubscribedTopicRegex="[")
    a.leave("leaves")
    settled(run, b)
    b.describe("by name")


@scenario
def consumer_group_settings(run):
    """What a group may choose for itself."""
    prepare(run)
    group = "chooses"
    alter = lambda label, name, value: run.ask(label, "IncrementalAlterConfigs", 1, {"Resources": [
        {"ResourceType": GROUP_RESOURCE, "ResourceName": group, "Configs": [{"Name": name, "ConfigOperation": 0, "Value": value}]}]})
    alter("too low", "consumer.heartbeat.interval.ms", "99")
    alter("too high", "consumer.session.timeout.ms", "60001")
    alter("no number", "consumer.session.timeout.ms", "x")
    alter("longer than the session", "consumer.heartbeat.interval.ms", "15001")
    alter("a session shorter than the heartbeats", "consumer.session.timeout.ms", "4000")
    alter("not there", "consumer.nothing", "1")
    alter("a heartbeat interval", "consumer.heartbeat.interval.ms", "700")
    alter("a session time-out", "consumer.session.timeout.ms", "1500")
    a, b = Member(run, group, "a"), Member(run, group, "b")
    a.join("joins")
    until(run, "the interval", lambda: a.quietly()["HeartbeatIntervalMs"] == 700)
    a.beat("hears of its interval")
    run.ask("the group", "DescribeConfigs", 4, {"Resources": [{"ResourceType": GROUP_RESOURCE, "ResourceName": group}], "IncludeSynonyms": True})
    b.join("joins, and is never heard of again")
    members = lambda: run.quietly("ConsumerGroupDescribe", 0, {"GroupIds": [group]})["Groups"][0]["Members"]

    def is_alone() -> bool:
        a.quietly()
        return len(members()) == 1
    until(run, "the end of a session", is_alone)
    settled(run, a)
    a.describe("is alone")
    a.leave("leaves")


@scenario
def consumer_group_migrates(run):
    """A classic group becomes a consumer group, and one again, while its members go on."""
    prepare(run)
    old = Peer(run, "migrates", 9)
    old.enter("joins")
    old.end_join()
    old.sync("syncs", {old.id: group_scenarios.assignment(0, 1, 2, 3)})
    new = Member(run, "migrates", "n")
    new.beat("a heartbeat in a classic group", MemberEpoch=1)
    new.leave("leaves a classic group")
    new.join("joins a classic group")
    new.describe("of both protocols")
    old.commit("is not told yet", 3, 9)
    old.heartbeat("hears of it")
    old.sync("syncs as it was")
    old.join("joins as a classic member")
    old.heartbeat("before it has synced")
    old.sync("syncs")
    new.beat("takes what is free")
    new.describe("both have theirs")
    old.heartbeat("is alive")
    old.commit("commits", 4, 9)
    old.heartbeat("of another generation", GenerationId=9)
    old.heartbeat("of a stranger", MemberId="x")
    old.sync("of another protocol", ProtocolType="other")
    Peer(run, "migrates", 9, ProtocolType="connect").join("of another type")
    old.ask("the consumer's, the classic way", "Heartbeat", 4, {"GroupId": "migrates", "GenerationId": new.epoch, "MemberId": "n"})
    old.ask("the consumer's, the classic way", "LeaveGroup", 5, {"GroupId": "migrates", "Members": [{"MemberId": "x"}]})
    new.leave("the new one leaves")
    new.describe("classic again")
    old.heartbeat("hears that it is")
    old.join("joins its group")
    old.sync("syncs in its group", {old.id: group_scenarios.assignment(0)})
    old.leave("leaves")
    new.join("joins the empty group")
    new.describe("a consumer group anew")
    new.leave("leaves the group empty")
    last = Peer(run, "migrates", 9)
    last.enter("joins the empty consumer group")
    last.end_join()
    new.describe("a classic group anew")
