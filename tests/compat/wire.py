"""Kafka's wire format in Python, driven by the tables in src/protocol/schema.

Requests are dicts with the tables' field names; what is left out takes its default. Answers decode to dicts
of the same shape, strictly: leftover bytes, a length past the end or an unknown tagged field are errors. It shares
no code with the broker, only the tables, so that it can be a second opinion.
"""

import gzip
import os
import pathlib
import re
import socket
import struct
import time
import uuid

SCHEMA = pathlib.Path(os.environ.get("COATI_SCHEMA", pathlib.Path(__file__).resolve().parents[2] / "src" / "protocol" / "schema"))
TIMEOUT_SECONDS = 30
ZERO_ID = "00000000-0000-0000-0000-000000000000"
# An hour ago: older producers and records would expire while a test runs.
TIME = int(time.time()) * 1000 - 3_600_000


class WireError(Exception):
    """The bytes do not follow the table."""


# --- the tables -------------------------------------------------------------------------------------------


class Versions:
    """A range in the notation of the tables: `3`, `3+`, `0-12`, `none`."""

    def __init__(self, text: str):
        if text == "none":
            self.low, self.high = 1, 0
        elif text.endswith("+"):
            self.low, self.high = int(text[:-1]), 1 << 15
        else:
            low, _, high = text.partition("-")
            self.low, self.high = int(low), int(high or low)

    def __contains__(self, version: int) -> bool:
        return self.low <= version <= self.high


class Field:
    def __init__(self, name, kind, versions, attributes):
        self.name = name
        self.is_array = kind.startswith("[]")
        self.kind = kind.removeprefix("[]")
        self.versions = Versions(versions)
        self.nullable = Versions(attributes.get("nullable", "none"))
        self.tagged = Versions(attributes.get("tagged", "none"))
        self.tag = int(attributes["tag"]) if "tag" in attributes else None
        self.default_text = attributes.get("default")
        self.flexible = Versions(attributes["flexible"]) if "flexible" in attributes else None
        self.fields: list[Field] = []


class Table:
    """One request or response."""

    def __init__(self, header: str):
        words = header.split()
        attributes = dict(word.split("=", 1) for word in words[2:] if "=" in word)
        self.type, self.name = words[0], words[1]
        self.key = int(attributes.get("key", -1))
        self.versions = Versions(attributes["versions"])
        self.flexible = Versions(attributes["flexible"])
        self.fields: list[Field] = []
        self.structs: dict[str, list[list[Field]]] = {}

    def children(self, field: Field) -> list[Field]:
        """A struct's fields stand under `struct` or under the first field of that kind."""
        return field.fields or next(fields for fields in self.structs[field.kind] if fields)


LINE = re.compile(r"^( +)(\S+) +(\S+)(?: +(\S+))?(.*)$")


def parse(text: str) -> list[Table]:
    tables, levels = [], []
    for line in text.splitlines():
        if not line.strip():
            continue
        if not line.startswith(" "):
            tables.append(Table(line))
            levels = [tables[-1].fields]
            continue
        indent, name, kind, versions, rest = LINE.match(line).groups()
        depth = len(indent) // 2
        if name == "struct":
            children = []
            tables[-1].structs.setdefault(kind, []).append(children)
        else:
            attributes = dict(word.partition("=")[::2] for word in (rest or "").split())
            field = Field(name, kind, versions, attributes)
            levels[depth - 1].append(field)
            children = field.fields
            tables[-1].structs.setdefault(field.kind, []).append(children)
        levels[depth:] = [children]
    return tables


def load() -> tuple[dict[int, Table], dict[int, Table]]:
    requests, responses = {}, {}
    for path in sorted(SCHEMA.glob("[0-9]*.txt")):
        for table in parse(path.read_text()):
            {"request": requests, "response": responses}.get(table.type, {})[table.key] = table
    if not requests:
        raise SystemExit(f"no tables in {SCHEMA}")
    return requests, responses


REQUESTS, RESPONSES = load()
API_NAMES = {key: re.sub(r"Request$", "", table.name) for key, table in REQUESTS.items()}
API_KEYS = {name: key for key, name in API_NAMES.items()}

# --- values -----------------------------------------------------------------------------------------------

INTEGERS = {"int8": ">b", "int16": ">h", "uint16": ">H", "int32": ">i", "int64": ">q", "float64": ">d"}


def uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint(value: int) -> bytes:
    return uvarint((value << 1) ^ (value >> 63) if value < 0 else value << 1)


def default_of(field: Field):
    text = field.default_text
    if field.is_array:
        return None if text == "null" else []
    if text == "null":
        return None
    if field.kind in ("string",):
        return (text or "").strip('"')
    if field.kind == "bytes":
        return b""
    if field.kind == "records":
        return None
    if field.kind == "bool":
        return text == "true"
    if field.kind == "uuid":
        return str(uuid.UUID(int=0))
    if field.kind == "float64":
        return float(text or 0)
    if field.kind in INTEGERS:
        return int(text or "0", 0)
    return {}


class Writer:
    def __init__(self, table: Table, version: int):
        self.table, self.version = table, version
        self.flexible = version in table.flexible
        self.out = bytearray()

    def length(self, count: int | None, narrow: bool, flexible: bool):
        if flexible:
            self.out += uvarint(0 if count is None else count + 1)
        else:
            self.out += struct.pack(">h" if narrow else ">i", -1 if count is None else count)

    def fields(self, fields: list[Field], values: dict):
        unknown = set(values) - {field.name for field in fields}
        assert not unknown, f"{self.table.name}: no such field: {unknown}"
        tagged = []
        for field in fields:
            if self.version not in field.versions:
                continue
            value = values.get(field.name, default_of(field))
            if self.version in field.tagged:
                if field.name in values and value != default_of(field):
                    tagged.append((field.tag, field, value))
            else:
                self.value(field, value)
        if self.flexible:
            self.out += uvarint(len(tagged))
            for tag, field, value in sorted(tagged, key=lambda entry: entry[0]):
                inner = Writer(self.table, self.version)
                inner.value(field, value)
                self.out += uvarint(tag) + uvarint(len(inner.out)) + inner.out

    def value(self, field: Field, value):
        if field.is_array:
            self.length(None if value is None else len(value), False, self.flexible)
            for element in value or ():
                self.single(field, element)
        else:
            self.single(field, value)

    def single(self, field: Field, value):
        kind = field.kind
        flexible = self.flexible if field.flexible is None else self.version in field.flexible
        if kind == "string":
            data = None if value is None else value.encode() if isinstance(value, str) else value
            self.length(None if data is None else len(data), True, flexible)
            self.out += data or b""
        elif kind in ("bytes", "records"):
            self.length(None if value is None else len(value), False, flexible)
            self.out += value or b""
        elif kind == "bool":
            self.out.append(1 if value else 0)
        elif kind == "uuid":
            self.out += uuid.UUID(value).bytes
        elif kind in INTEGERS:
            self.out += struct.pack(INTEGERS[kind], value)
        else:
            if self.version in field.nullable and not field.is_array:
                self.out += struct.pack(">b", -1 if value is None else 1)
                if value is None:
                    return
            self.fields(self.table.children(field), value)


class Reader:
    def __init__(self, data: bytes, table: Table, version: int):
        self.data, self.position = data, 0
        self.table, self.version = table, version
        self.flexible = version in table.flexible

    def take(self, count: int) -> bytes:
        if count < 0 or self.position + count > len(self.data):
            raise WireError(f"{self.table.name}: {count} bytes wanted at {self.position} of {len(self.data)}")
        self.position += count
        return self.data[self.position - count:self.position]

    def number(self, form: str):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 35:
                raise WireError(f"{self.table.name}: a varint is too long")

    def length(self, narrow: bool, flexible: bool) -> int | None:
        count = self.uvarint() - 1 if flexible else self.number(">h" if narrow else ">i")
        return None if count < 0 else count

    def not_null(self, field: Field, value):
        if value is None and self.version not in field.nullable:
            raise WireError(f"{self.table.name}.{field.name} is null in version {self.version}")
        return value

    def fields(self, fields: list[Field]) -> dict:
        values = {}
        for field in fields:
            if self.version in field.versions:
                values[field.name] = default_of(field) if self.version in field.tagged else self.value(field)
        if self.flexible:
            known = {field.tag: field for field in fields if self.version in field.tagged}
            for _ in range(self.uvarint()):
                tag, size = self.uvarint(), self.uvarint()
                end = self.position + size
                if tag not in known:
                    raise WireError(f"{self.table.name}: unknown tagged field {tag}")
                values[known[tag].name] = self.value(known[tag])
                if self.position != end:
                    raise WireError(f"{self.table.name}: tagged field {tag} has a wrong size")
        return values

    def value(self, field: Field):
        if not field.is_array:
            return self.single(field)
        count = self.not_null(field, self.length(False, self.flexible))
        return None if count is None else [self.single(field) for _ in range(count)]

    def single(self, field: Field):
        kind = field.kind
        flexible = self.flexible if field.flexible is None else self.version in field.flexible
        if kind in ("string", "bytes", "records"):
            count = self.length(kind == "string", flexible)
            if kind != "records" or count is not None:
                self.not_null(field, count)
            data = None if count is None else self.take(count)
            return data.decode() if kind == "string" and data is not None else data
        if kind == "bool":
            return self.number(">b") != 0
        if kind == "uuid":
            return str(uuid.UUID(bytes=self.take(16)))
        if kind in INTEGERS:
            return self.number(INTEGERS[kind])
        if self.version in field.nullable and not field.is_array and self.number(">b") < 0:
            return None
        return self.fields(self.table.children(field))


def encode_request(key: int, version: int, body: dict, correlation: int = 1, client: str | None = "wire") -> bytes:
    """Header and body, without the frame's length."""
    table = REQUESTS[key]
    writer = Writer(table, version)
    writer.fields(table.fields, body)
    return request_header(key, version, correlation, client) + bytes(writer.out)


def request_header(key: int, version: int, correlation: int, client: str | None) -> bytes:
    name = b"" if client is None else client.encode()
    header = struct.pack(">hhih", key, version, correlation, -1 if client is None else len(name)) + name
    return header + (b"\0" if version in REQUESTS[key].flexible else b"")


def decode_response(key: int, version: int, frame: bytes) -> tuple[int, dict]:
    """A frame without its length: (correlation id, body)."""
    table = RESPONSES[key]
    reader = Reader(frame, table, version)
    correlation = reader.number(">i")
    if reader.flexible and key != 18:  # ApiVersions answers with header 0, so that any client can read it.
        if reader.uvarint() != 0:
            raise WireError(f"{table.name}: tagged fields in the header")
    body = reader.fields(table.fields)
    if reader.position != len(frame):
        raise WireError(f"{table.name} v{version}: {len(frame) - reader.position} bytes left over")
    return correlation, body


class Closed(Exception):
    """The broker has closed the connection."""


class Connection:
    def __init__(self, bootstrap: str, timeout: float = TIMEOUT_SECONDS, client: str | None = "wire"):
        self.client = client
        host, port = bootstrap.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.correlation = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send_frame(self, frame: bytes):
        try:
            self.socket.sendall(struct.pack(">i", len(frame)) + frame)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error

    def read_exact(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                piece = self.socket.recv(min(count - len(data), 1 << 20))
            except ConnectionResetError as error:
                raise Closed from error
            if not piece:
                raise Closed
            data += piece
        return bytes(data)

    def read_frame(self) -> bytes:
        return self.read_exact(struct.unpack(">i", self.read_exact(4))[0])

    def send(self, key: int, version: int, body: dict) -> int:
        self.correlation += 1
        self.send_frame(encode_request(key, version, body, self.correlation, self.client))
        return self.correlation

    def receive(self, key: int, version: int) -> dict:
        return decode_response(key, version, self.read_frame())[1]

    def ask(self, api: int | str, version: int, body: dict | None = None) -> dict:
        """One request and its answer."""
        key = API_KEYS[api] if isinstance(api, str) else api
        expected = self.send(key, version, body or {})
        correlation, answer = decode_response(key, version, self.read_frame())
        if correlation != expected:
            raise WireError(f"{API_NAMES[key]}: correlation id {correlation} instead of {expected}")
        return answer


# --- record batches ---------------------------------------------------------------------------------------

CRC_TABLE = []
for index in range(256):
    for _ in range(8):
        index = (index >> 1) ^ (0x82F63B78 if index & 1 else 0)
    CRC_TABLE.append(index)


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = CRC_TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def record(delta: int, key: bytes | None, value: bytes | None, headers=(), timestamp_delta: int = 0) -> bytes:
    body = bytearray(b"\0") + varint(timestamp_delta) + varint(delta)
    for data in (key, value):
        body += varint(-1 if data is None else len(data)) + (data or b"")
    body += varint(len(headers))
    for name, data in headers:
        body += varint(len(name)) + name + varint(-1 if data is None else len(data)) + (data or b"")
    return varint(len(body)) + bytes(body)


def batch(values, *, timestamp: int = TIME, step: int = 0, base_offset: int = 0, producer_id: int = -1,
          producer_epoch: int = -1, sequence: int = -1, attributes: int = 0, magic: int = 2, leader_epoch: int = -1,
          codec: str = "none", count: int | None = None, last_delta: int | None = None, crc: int | None = None,
          length_error: int = 0, max_timestamp: int | None = None) -> bytes:
    """A batch of records: each value is bytes, or a (key, value, headers) tuple. Header fields can be falsified."""
    entries = [value if isinstance(value, tuple) else (None, value, ()) for value in values]
    records = b"".join(record(delta, *entry, timestamp_delta=delta * step) for delta, entry in enumerate(entries))
    if codec == "gzip":
        attributes, records = attributes | 1, gzip.compress(records, mtime=0)
    last = len(entries) - 1 if last_delta is None else last_delta
    newest = timestamp + step * max(len(entries) - 1, 0) if max_timestamp is None else max_timestamp
    checked = struct.pack(">hiqqqhii", attributes, last, timestamp, newest, producer_id, producer_epoch, sequence,
                          len(entries) if count is None else count) + records
    checksum = crc32c(checked) if crc is None else crc
    rest = struct.pack(">ibI", leader_epoch, magic, checksum) + checked
    return struct.pack(">qi", base_offset, len(rest) + length_error) + rest
