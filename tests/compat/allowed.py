"""Differences from Apache Kafka that are meant, each with its reason. STATUS.md lists those that a run has met."""

import re


class Allowance:
    def __init__(self, reason: str, api: str = ".*", label: str = ".*", path: str = ".*", expected=None, got=None):
        self.reason, self.expected, self.got = reason, expected, got
        self.patterns = [re.compile(pattern) for pattern in (api, label, path)]

    def covers(self, api, label, path, expected, got) -> bool:
        return (all(pattern.fullmatch(text) for pattern, text in zip(self.patterns, (api, label, path)))
                and (self.expected is None or self.expected(expected)) and (self.got is None or self.got(got)))


ALLOWED: list[Allowance] = [
    Allowance("APIs of groups, transactions, quotas, security and several brokers are absent until they work.",
              api="ApiVersions", path=r"ApiKeys\..*", got=lambda got: got == "absent"),
]


def reason(api: str, version: int, label: str, path: str, expected, got) -> str | None:
    return next((entry.reason for entry in ALLOWED if entry.covers(api, label, path, expected, got)), None)


def reasons() -> list[str]:
    return list(dict.fromkeys(entry.reason for entry in ALLOWED))
