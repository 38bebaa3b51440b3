"""What of the queue goes into one transaction: whole row groups of spans, where so many wait.

DuckDB writes a whole row group of a transaction once, and past its write-ahead log. Fewer rows go through the log, and
the next checkpoint packs them; so it does, anew, with row groups that are partly filled and their neighbours. At 30,000
spans a second those checkpoints took 0.3 to 1.7 s each, six a minute, during which nothing landed and senders came to
wait; with whole row groups one a minute takes 0.1 s.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from ..journal.writer import Position
from ..receive.batches import Batches, SpanBatches
from .database import ROW_GROUP_ROWS
from .landing import Body


def row_groups(rows: int) -> int:
    """Return how many row groups so many rows fill."""
    return rows // ROW_GROUP_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An acknowledged body: where it stands in the journal and, unless memory was short, what it decodes to."""

    start: Position
    end: Position
    digest: bytes
    arrived_s: float
    batches: Batches | None = None
    #: Memory that its batches hold.
    decoded_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoded_bytes", 0 if self.batches is None else self.batches.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes in the journal."""
        return self.end.offset - self.start.offset

    @property
    def decoded_rows(self) -> int:
        """Rows of its batches."""
        return 0 if self.batches is None else self.batches.rows

    def cut(self, batches: SpanBatches, spans: int) -> tuple[Body, Self]:
        """Return the first so many spans as a body that nobody sends, and the entry with the rest of its batches."""
        first, rest = batches.cut(spans)
        digest = hashlib.blake2b(self.digest, digest_size=len(self.digest)).digest()
        return Body(digest=digest, batches=first), replace(self, batches=rest)


@dataclass(slots=True)
class Portion:
    """Entries from the front of the queue, and a body for each; None for one that cannot be read."""

    entries: list[Entry] = field(default_factory=list)
    bodies: list[Body | None] = field(default_factory=list)
    rest: Entry | None = None  # of the last entry, of which only the first spans are in the body
    spans: int = 0  # of the bodies
    rows: int = 0  # that were added, of every kind; at least one a body

    def add(self, entry: Entry, batches: Batches | None) -> None:
        """Take an entry and what it decodes to."""
        self.entries.append(entry)
        self.bodies.append(Body(digest=entry.digest, batches=batches) if batches else None)
        self.spans += _spans(self.bodies[-1])
        self.rows += max(batches.rows if batches else 0, 1)

    @property
    def is_full(self) -> bool:
        """Whether more would make the transaction larger than it need be."""
        return row_groups(self.spans) > 0 or row_groups(self.rows) > 1

    @property
    def readable(self) -> Sequence[Body]:
        """The bodies to land."""
        return [body for body in self.bodies if body]

    @property
    def position(self) -> Position:
        """How far the journal has landed after it: not beyond an entry that has a rest."""
        return self.entries[-1].end if self.rest is None else self.entries[-1].start

    def shorten(self) -> None:
        """Give up what is beyond the last whole row group of spans; where they fill none, nothing."""
        over = self.spans % ROW_GROUP_ROWS if row_groups(self.spans) else 0
        self.spans -= over
        while over:
            body, spans = self.bodies[-1], _spans(self.bodies[-1])
            if body and isinstance(body.batches, SpanBatches) and spans > over:
                self.bodies[-1], self.rest = self.entries[-1].cut(body.batches, spans - over)
                return
            self.bodies.pop()
            self.entries.pop()
            over -= spans


def _spans(body: Body | None) -> int:
    return body.batches.spans.num_rows if body and isinstance(body.batches, SpanBatches) else 0
