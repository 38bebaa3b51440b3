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

from .batches import CONTENT_DROPPED, Health
from .content import EVENT_RULES, KEY_RULES, Content, status_head
from .values import Json, column_text, json_text, plain

Column = list[str | None]
#: (resource_id, service, instance, version, region, attrs)
ResourceRow = tuple[int, str | None, str | None, str | None, str | None, str]

#: Where SDKs put a log event's name before the record had a field for it.
EVENT_NAME: Final = "event.name"
SERVICE_NAME: Final = "service.name"
RESOURCE_COLUMNS: Final = ("service.instance.id", "service.version", "cloud.region")


class Attributes:
    """Reads the attributes of one body and remembers what was taken out of it."""

    def __init__(self, *, content: Content) -> None:
        self._content_keys = KEY_RULES[content]
        self._drops = content == "drop"
        self._content_events = EVENT_RULES[content]
        self.health: Health = Counter()
        self.resources: dict[int, ResourceRow] = {}
        self.service: str | None = None  # of the resource read last
        self.scrubbed = False  # content was deleted from the message

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
        """Return the pairs that are no content; what is content is deleted from the message."""
        kept: dict[str, Json] = {}
        dropped: list[int] = []
        content_keys = self._content_keys
        for index, pair in enumerate(pairs):
            key = pair.key
            if content_keys[key]:
                dropped.append(index)
            else:
                value = pair.value
                kept[key] = value.string_value or plain(value)
        if dropped:
            self._drop(pairs, dropped)
        return kept

    def take_event(self, name: str, pairs: Any) -> dict[str, Json]:
        """Return the attributes of an event: when it is known to carry content, none but its name."""
        if pairs and self._content_events[name]:
            content = [at for at, pair in enumerate(pairs) if (pair.key, pair.value.string_value) != (EVENT_NAME, name)]
            if content:
                self._drop(pairs, content)
        return self.take(pairs)

    def take_body(self, name: str, record: LogRecord) -> str | None:
        """Return the body of a record named `name` as JSON text: null when it has none or is known to be content.

        What is content is deleted from the record; the keys of a body that is a map are looked up like attributes.
        """
        if not record.HasField("body"):
            return None
        if self._content_events[name]:
            self.scrubbed = True
            self.count(CONTENT_DROPPED)
            record.ClearField("body")
            return None
        kind = record.body.WhichOneof("value")
        if kind == "kvlist_value":
            return json_text(self.take(record.body.kvlist_value.values))
        return None if kind is None else json_text(plain(record.body))

    def take_message(self, status: Status) -> str | None:
        """Return the message of a status without what it quotes, which is deleted from the status; null when empty."""
        message = status.message
        if message and self._drops and (head := status_head(message)) != message:
            self.scrubbed = True
            self.count(CONTENT_DROPPED)
            status.message = message = head
        return message or None

    def count(self, reason: str, n: int = 1) -> None:
        """Count spans, points, links or records of the resource read last."""
        self.health[self.service, reason] += n

    def _drop(self, pairs: Any, indices: Sequence[int]) -> None:
        self.scrubbed = True
        self.count(CONTENT_DROPPED, len(indices))
        for index in reversed(indices):
            del pairs[index]


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
