"""Attributes of one body: content taken out, promoted keys into columns of their own, everything as JSON."""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import orjson
import pyarrow as pa
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tailbudget.instrument import vocabulary

from .batches import CONTENT_DROPPED, CONTENT_REASONS, Health
from .content import EVENT_RULES, KEY_RULES, status_head
from .privacy import USER_KEYS, Content
from .values import Json, column_text, json_text, plain

Column = list[str | None]
#: (resource_id, service, instance, version, region, attrs)
ResourceRow = tuple[int, str | None, str | None, str | None, str | None, str]

TENANT: Final = vocabulary.TENANT
#: Where SDKs put a log event's name before the record had a field for it.
EVENT_NAME: Final = "event.name"
SERVICE_NAME: Final = "service.name"
RESOURCE_COLUMNS: Final = ("service.instance.id", "service.version", "cloud.region")


class Attributes:
    """Reads the attributes of one body and remembers what was taken out of it."""

    def __init__(self, *, content: Content) -> None:
        self._content = content
        self._drops = content.mode == "drop"
        self._reason = CONTENT_REASONS[content.mode]
        self.health: Health = Counter()
        self.resources: dict[int, ResourceRow] = {}
        self.service: str | None = None  # of the resource read last
        self.scrubbed = False  # the message is no longer as it came

    def resource(self, resource: Resource) -> int:
        """Remember the resource and return its id, the 64-bit blake2b of its canonical JSON."""
        names = [pair.value for pair in resource.attributes if pair.key == SERVICE_NAME]
        self.service = column_text(plain(names[-1])) if names else None  # before its content is counted
        attrs = self.take(resource.attributes)
        text = orjson.dumps(attrs, option=orjson.OPT_SORT_KEYS)
        resource_id = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
        instance, version, region = (column_text(attrs.get(key)) for key in RESOURCE_COLUMNS)
        self.resources[resource_id] = (resource_id, self.service, instance, version, region, text.decode())
        return resource_id

    def take(self, pairs: Any) -> dict[str, Json]:
        """Return the pairs, content treated by the rule; what is dropped or changed is so in the message too."""
        kept: dict[str, Json] = {}
        content: list[int] = []
        for index, pair in enumerate(pairs):
            key = pair.key
            if KEY_RULES[key]:
                content.append(index)
            else:
                value = pair.value
                kept[key] = value.string_value or plain(value)
        if content:
            kept |= self._treat(pairs, content)
        if self._content.tenant_from_user:
            self._hash_users(pairs, kept)
        return kept

    def take_span(self, pairs: Any) -> dict[str, Json]:
        """Return the attributes of a span, its user as its tenant where the rule says so and it has none."""
        kept = self.take(pairs)
        if self._content.tenant_from_user and TENANT not in kept:
            user = next((kept[key] for key in USER_KEYS if key in kept), None)
            if user is not None:
                kept[TENANT] = pairs.add(key=TENANT).value.string_value = user
        return kept

    def take_event(self, name: str, pairs: Any) -> dict[str, Json]:
        """Return the attributes of an event: when it is known to carry content, none but its name."""
        if not EVENT_RULES[name]:
            return self.take(pairs)
        content = [at for at, pair in enumerate(pairs) if (pair.key, pair.value.string_value) != (EVENT_NAME, name)]
        named = {EVENT_NAME: name} if len(content) < len(pairs) else {}
        return named | self._treat(pairs, content)

    def take_body(self, name: str, record: LogRecord) -> str | None:
        """Return the body of a record named `name` as JSON text: null when it has none, or was content and dropped.

        What is treated is so in the record too; the keys of a body that is a map are looked up like attributes.
        """
        if not record.HasField("body"):
            return None
        if EVENT_RULES[name]:
            self.scrubbed = True
            self.count(self._reason)
            if self._drops:
                record.ClearField("body")
                return None
            self._content.value(record.body)
            return json_text(plain(record.body))
        kind = record.body.WhichOneof("value")
        if kind == "kvlist_value":
            return json_text(self.take(record.body.kvlist_value.values))
        return None if kind is None else json_text(plain(record.body))

    def take_message(self, status: Status) -> str | None:
        """Return the message of a status, without what it quotes unless content is kept; null when empty."""
        message = status.message
        quoted = self._content.mode in ("drop", "hash")
        if message and (head := status_head(message) if quoted else self._content.text(message)) != message:
            self.scrubbed = True
            self.count(CONTENT_DROPPED if quoted else self._reason)
            status.message = message = head
        return message or None

    def count(self, reason: str, n: int = 1) -> None:
        """Count spans, points, links or records of the resource read last."""
        self.health[self.service, reason] += n

    def _hash_users(self, pairs: Any, kept: dict[str, Json]) -> None:
        for pair in pairs:
            if pair.key in USER_KEYS and kept[pair.key] is not None:
                user = self._content.user(column_text(kept[pair.key]) or "")
                kept[pair.key] = pair.value.string_value = user
                self.scrubbed = True

    def _treat(self, pairs: Any, indices: Sequence[int]) -> dict[str, Json]:
        """Treat the pairs that are content in the message, and return what stays of them."""
        if not indices:
            return {}
        self.scrubbed = True
        self.count(self._reason, len(indices))
        if self._drops:
            for index in reversed(indices):
                del pairs[index]
            return {}
        for index in indices:
            self._content.value(pairs[index].value)
        return {pairs[index].key: plain(pairs[index].value) for index in indices}


class Promoted:
    """One text column a promoted key that any span has, null where a span lacks it."""

    def __init__(self, keys: Sequence[str], *, rows: int) -> None:
        self._keys = frozenset(keys)
        self._rows = rows
        self._columns: dict[str, Column] = {}

    def write(self, attrs: dict[str, Json], *, row: int) -> None:
        """Put the promoted keys of one span into row `row`."""
        for key in attrs.keys() & self._keys:
            value = attrs[key]
            text = value if type(value) is str else column_text(value)
            if text is None:
                continue
            column = self._columns.get(key)
            if column is None:
                column = self._columns[key] = [None] * self._rows
            column[row] = text

    def arrow(self, *, rows: int) -> dict[str, pa.Array]:
        """Return the first `rows` rows of the columns that hold anything, by key."""
        return {key: pa.array(self._columns[key][:rows], pa.string()) for key in sorted(self._columns)}
