"""Differences from Apache Kafka that are meant, each with its reason. STATUS.md lists those that a run has met;
one that no difference meets any more fails the run."""

import re

ABSENT = "absent"


class Allowance:
    """Covers a difference at `path` of an answer to `label` of `api` (regular expressions) if the values are as told."""

    def __init__(self, reason: str, api: str = ".*", label: str = ".*", path: str = ".*", expected=None, got=None):
        self.reason, self.expected, self.got = reason, expected, got
        self.patterns = [re.compile(pattern) for pattern in (api, label, path)]

    def covers(self, api, label, path, expected, got) -> bool:
        return (all(pattern.fullmatch(text) for pattern, text in zip(self.patterns, (api, label, path)))
                and (self.expected is None or self.expected(expected)) and (self.got is None or self.got(got)))


def equals(value):
    return lambda other: other == value


def is_cut(expected) -> bool:
    return isinstance(expected, list) and bool(expected) and "cut" in expected[-1]


LATER = "Transactions, share groups, streams groups, quotas, telemetry, security and several brokers come later: their APIs, features and resources are absent."
INSIDE = "The controller of a single broker is inside it and has no listener of its own."
NONSENSE = "A value that means nothing: Apache Kafka fails inside and says UNKNOWN_SERVER_ERROR, Coati says INVALID_REQUEST."

ALLOWED: list[Allowance] = [
    Allowance(LATER, api="ApiVersions", path=r"ApiKeys\..*|(Supported|Finalized)Features\.(kraft|share|streams|transaction)\.version",
              got=equals(ABSENT)),
    Allowance(LATER, api="UpdateFeatures", label="an upgrade called a downgrade|deletes a feature"),
    Allowance(LATER, api="DescribeConfigs", label="client metrics", path=r"Results\.nobody\.Configs", got=equals([])),
    Allowance(LATER, api="Produce", label="a transactional batch of no transaction"),
    Allowance("A Coati cluster begins at metadata.version 33; there is no older one to come from.",
              api="ApiVersions", path=r"SupportedFeatures\.metadata\.version\.MinVersion"),
    Allowance(INSIDE, api="DescribeQuorum", path=r"Nodes\.0\.Listeners", got=equals([])),
    Allowance(INSIDE, api="DescribeConfigs", label="(the|all) brokers?.*", path=r".*\.Configs\.(controller\.quorum\.voters|listeners)\..*"),
    Allowance("Coati has settings of its own.", api="DescribeConfigs", label="(the|all) brokers?.*",
              path=r".*\.Configs\.(admin\.listener|cores|group\.members\.max\.bytes|log\.flush\.policy|log\.tail\.cache\.bytes)", expected=equals(ABSENT)),
    Allowance("There are no Java loggers to describe.", api="DescribeConfigs", label="the loggers", path=r"Results\.0\.Configs", got=equals([])),
    Allowance("A topic that Metadata creates is ready when it answers; Apache Kafka says UNKNOWN_TOPIC_OR_PARTITION and lets the client ask again.",
              api="Metadata", label="creates a topic", path=r"Topics\.auto-.*"),
    Allowance("A compressed batch is opened only if something depends on what is in it; Apache Kafka finds nonsense in it at once, consumers of Coati do.",
              api="Produce", label="nonsense that claims (gzip|zstd)"),
    Allowance("A fetch ends where a batch ends; Apache Kafka cuts the last batch at the limit, and clients throw the piece away.",
              api="Fetch", label="(partition|request) limit .*", path=r".*\.Records\.batches", expected=is_cut),
    Allowance(NONSENSE, path=r"(.*\.)?ErrorCode", expected=equals(-1), got=equals(42)),
    Allowance("Metadata by a zero id and no name fails as a whole in Apache Kafka; Coati answers for the topic.", api="Metadata", label="by zero id"),
    Allowance("Where Apache Kafka leaves it to the error code, Coati may say in words what is wrong.",
              path=r".*ErrorMessage", expected=equals(None), got=equals("text")),
    Allowance("A string that is not UTF-8 closes the connection; Apache Kafka puts U+FFFD in its place.",
              api="raw", label="a name that is not UTF-8", got=equals("connection closed")),
]


def reason(api: str, version: int, label: str, path: str, expected, got) -> str | None:
    return next((entry.reason for entry in ALLOWED if entry.covers(api, label, path, expected, got)), None)


def reasons() -> list[str]:
    return list(dict.fromkeys(entry.reason for entry in ALLOWED))
