"""Keeps what a collector has in a ClickHouse that many collectors share, however often either of them goes away."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ..engines.catalog import catalog, conformed
from ..engines.clickhouse import SETTINGS, checked, connect
from ..seal.retention import Keep
from .keeping import said, settle, wanted
from .tables import Stored, definitions, tables

SQL: Final = Path(__file__).with_name("sql")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
#: How far back is compared, and every how many seconds: requests change while they run, when late spans come, when
#: roll-ups are packed, and when somebody is forgotten. A new connection begins with everything.
DEPTHS: Final = ((2 * MINUTE, 2.0), (15 * MINUTE, 60.0), (25 * HOUR, 3600.0), (timedelta.max, 86_400.0))
#: A comparison waits so many times as long as it took, so that it has a tenth of a core at most.
REST: Final = 10
#: Rows of one insert, which ClickHouse takes or leaves as a whole where they are of one partition; in memory at once.
MOST_ROWS: Final = 100_000
BATCH_ROWS: Final = 20_000
#: Rows that are compared at once where several hours are: 16 bytes of memory each.
AT_ONCE: Final = 5_000_000
#: Hashes in one question: ClickHouse takes 256 KB of text.
MOST_ASKED: Final = 10_000
#: An insert after an outage may be of more days than the 100 partitions that ClickHouse allows.
INSERT: Final = {"max_partitions_per_insert_block": 0}


@dataclass(frozen=True)
class Slice:
    """A stretch of time of a table; of one that is compared as a whole all that the store keeps."""

    table: Stored
    start: datetime | None = None
    end: datetime | None = None


class Mirror:
    """Makes the store's rows of one collector equal to those of its data file; used by one thread.

    Nothing is remembered between ticks: slices of time whose number of rows or hashes differ are compared row by row,
    and one insert brings what is missing there and ends what is no more. So a crash or an outage at any point loses
    nothing and doubles nothing: the next tick finds the same difference again. What retention ended here stays there
    until the store's own retention ends it, which is `keep` unless the address or the store itself says otherwise.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, url: str, *, keep: Keep | None = None) -> None:
        self._connection = connection
        checked(url)
        said(url)
        self._url = url
        self._keep = keep or Keep()
        self._kept: Mapping[str, timedelta] = {}  # how long the store keeps the rows of each table
        ((self._collector,),) = connection.execute("select collector_id from meta").fetchall()
        self._client: Any = None
        self._due_s = [0.0] * len(DEPTHS)

    def tick(self, now: datetime) -> int:
        """Return how many rows were written; raises QueryError or ClickHouse's errors: the next tick is the remedy."""
        if self._client is None:
            client = connect(self._url)
            for statement in definitions(wanted(self._keep, self._url)):
                client.command(statement)
            self._kept = settle(client, self._keep, self._url)
            self._client, self._due_s = client, [0.0] * len(DEPTHS)
        due = [at for at, due_s in enumerate(self._due_s) if time.monotonic() >= due_s]
        try:
            return sum(self._compared(at, now) for at in sorted({due[0], due[-1]})) if due else 0
        except BaseException:
            self.close()
            raise

    def _compared(self, at: int, now: datetime) -> int:
        """Compare so far back, meanwhile what is new again and again; return how many rows were written."""
        began, written = time.monotonic(), 0
        for part in self._differing(now, DEPTHS[at][0]):
            written += self._mend(part) if part else 0
            if at and time.monotonic() >= self._due_s[0]:
                written += self._compared(0, now + timedelta(seconds=time.monotonic() - began))
        ended = time.monotonic()
        for nearer in range(at + 1):  # what is nearer was compared too
            self._due_s[nearer] = ended + max(DEPTHS[nearer][1], REST * (ended - began) if nearer == at else 0)
        return written

    def close(self) -> None:
        """Let go of the store; the next tick connects again, and compares everything."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _differing(self, now: datetime, depth: timedelta) -> Iterator[Slice | None]:
        """Yield the slices that are not the same on both sides: minutes up to a quarter of an hour ago, else hours.

        None stands for a stretch that is.
        """
        width = MINUTE if depth <= 15 * MINUTE else HOUR
        for one in tables().values():
            if one.time is None:
                yield Slice(one, self._kept_from(one, now))
                continue
            since = retained(self._connection, one) or EPOCH
            oldest = self._oldest(one, since) if width == HOUR else EPOCH
            start = max(oldest, self._kept_from(one, now) or EPOCH, floored(now - min(depth, now - EPOCH), width))
            for begin, end in self._stretches(one, start, now + HOUR, width):
                yield from self._unequal(one, begin, end, width, since)
                yield None

    def _oldest(self, one: Stored, since: datetime) -> datetime:
        """Return from when on rows may differ: of what retention has ended here only what came late."""
        hours = self._hours(one, EPOCH, since)
        return EPOCH + min(hours) * HOUR if hours else since

    def _stretches(
        self, one: Stored, start: datetime, end: datetime, width: timedelta
    ) -> Iterator[tuple[datetime, datetime]]:
        """Yield stretches from the newest to the oldest, of AT_ONCE rows here unless one hour has more."""
        counted = self._hours(one, start, end) if width == HOUR else {}
        held = 0
        for hour in sorted(counted, reverse=True):
            if held and held + counted[hour] > AT_ONCE:
                begin = EPOCH + (hour + 1) * HOUR
                yield begin, end
                end, held = begin, 0
            held += counted[hour]
        yield start, end

    def _hours(self, one: Stored, start: datetime, end: datetime) -> Mapping[int, int]:
        """Return how many rows each hour has here, by hours since 1970."""
        asked = {"table": one.name, "time": one.time or "", "within": within(one, start, end)}
        rows = local_sql(self._connection, "local_hours", **asked).to_pylist()
        return {row["hour"]: row["n"] for row in rows}

    def _kept_from(self, one: Stored, now: datetime) -> datetime | None:
        """Return from when on the store keeps rows for a while yet, None where it keeps all."""
        kept = self._kept.get(one.name)
        return None if kept is None else now - kept + min(HOUR, kept / 10)

    def _unequal(
        self, one: Stored, start: datetime, end: datetime, width: timedelta, since: datetime
    ) -> Iterator[Slice]:
        seconds = int(width.total_seconds())
        here = local_sql(
            self._connection,
            "local_slices",
            table=one.name,
            slice=f"epoch_us({one.time}) // {seconds * 1_000_000}",
            within=within(one, start, end),
        )
        there = self._shared(
            "shared_slices",
            Slice(one, start, end),
            slice=f"intDiv(toUnixTimestamp64Micro({one.time}), {seconds * 1_000_000})",
        )
        told: list[dict[int, tuple[int, int]]] = [
            {row["slice"]: (row["n"], row["bits"]) for row in side.to_pylist()} for side in (here, there)
        ]
        ended = (since - EPOCH) // width  # of what is older the store may have what is no more here
        numbers = told[0].keys() | {number for number in told[1] if number >= ended}
        unequal = [number for number in numbers if told[0].get(number) != told[1].get(number)]
        for first, last in _runs(sorted(unequal), {number: n for number, (n, _) in told[0].items()}):
            begin, finish = (EPOCH + timedelta(seconds=number * seconds) for number in (first, last + 1))
            if width > MINUTE and max(side.get(first, (0, 0))[0] for side in told) > AT_ONCE:
                yield from self._unequal(one, max(begin, start), finish, MINUTE, since)
            else:
                yield Slice(one, max(begin, start), finish)

    def _mend(self, part: Slice) -> int:
        """Make one slice equal, with one insert unless that were more than MOST_ROWS; return how many rows it wrote."""
        one, written = part.table, 0
        here = local_sql(self._connection, "local_hashes", table=one.name, within=within(one, part.start, part.end))
        there = self._shared("shared_hashes", part, may_end=self._retained(one))
        missing = here.filter(pc.invert(pc.is_in(here["_hash"], value_set=there["_hash"])))["_hash"]
        kept = pc.or_(pc.is_in(there["_hash"], value_set=here["_hash"]), pc.equal(there["may_end"], 0))
        gone = there.filter(pc.invert(kept))["_hash"]
        held: list[pa.Table] = []
        for change in chain(self._ended(part, gone), self._missing(part, missing)):
            held.append(change)
            if sum(table.num_rows for table in held) >= MOST_ROWS:
                written += self._insert(one, held)
                held = []
        return written + self._insert(one, held)

    def _insert(self, one: Stored, rows: Sequence[pa.Table]) -> int:
        if not rows:
            return 0
        whole = pa.concat_tables(rows)
        self._client.insert_arrow(one.table, whole, settings=INSERT)
        return int(whole.num_rows)

    def _ended(self, part: Slice, hashes: Any) -> Iterator[pa.Table]:
        """Yield what ends rows of the store."""
        one = part.table
        columns = ", ".join(f"`{name}`" for name in catalog().columns()[one.name])
        schema = local_sql(self._connection, "local_rows", table=one.name, within="false").schema
        for at in range(0, len(hashes), MOST_ASKED):
            listed = ", ".join(map(str, hashes.slice(at, MOST_ASKED).to_pylist()))
            rows = self._shared("shared_rows", part, columns=columns, hashes=listed)
            yield self._marked(conformed(rows, schema), gone=1)

    def _missing(self, part: Slice, hashes: Any) -> Iterator[pa.Table]:
        """Yield rows that the store lacks, as few at a time as memory likes."""
        if not len(hashes):
            return
        one, cursor = part.table, self._connection.cursor()
        try:
            asked = _sql("local_rows").format(table=one.name, within=within(one, part.start, part.end))
            for batch in cursor.sql(asked).to_arrow_reader(BATCH_ROWS):
                rows = pa.Table.from_batches([batch])
                rows = rows.filter(pc.is_in(rows["_hash"], value_set=hashes))
                if rows.num_rows:
                    yield self._marked(rows, gone=0)
        finally:
            cursor.close()

    def _retained(self, one: Stored) -> str:
        """Return the condition that retention has not ended a row here; to be asked after what is here was read."""
        since = retained(self._connection, one)
        return "true" if since is None or one.kept is None else f"{one.kept.time} >= {_instant(since)}"

    def _marked(self, rows: pa.Table, *, gone: int) -> pa.Table:
        """Return the rows with what the store adds: whose they are, from when, and whether they are no more."""
        n, version = rows.num_rows, time.time_ns()
        rows = rows.append_column("_collector", pa.array([self._collector] * n, pa.string()))
        rows = rows.append_column("_version", pa.array([version] * n, pa.uint64()))
        return rows.append_column("_gone", pa.array([gone] * n, pa.uint8()))

    def _shared(self, name: str, part: Slice, **words: str) -> pa.Table:
        """Return the store's answer to `sql/<name>.sql` about a slice."""
        words |= {"table": part.table.name, "within": _remote(part.table, part.start, part.end)}
        asked = _sql(name).format(collector=_text(self._collector), **words)
        return self._client.query_arrow(asked, settings=SETTINGS, use_strings=True)


def _runs(numbers: Sequence[int], rows: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of numbers that follow each other, as long as they hold MOST_ROWS rows at most."""
    first = held = 0
    for at, number in enumerate(numbers):
        if at == 0 or number != numbers[at - 1] + 1 or held + rows.get(number, 0) > MOST_ROWS:
            first, held = number, 0
        held += rows.get(number, 0)
        after = numbers[at + 1] if at + 1 < len(numbers) else None
        if after != number + 1 or held + rows.get(after, 0) > MOST_ROWS:
            yield first, number


def local_sql(connection: duckdb.DuckDBPyConnection, name: str, **words: str) -> pa.Table:
    """Return the answer of `sql/<name>.sql` with its words put in, from any thread."""
    cursor = connection.cursor()
    try:
        return cursor.sql(_sql(name).format(**words)).to_arrow_table()
    finally:
        cursor.close()


def retained(connection: duckdb.DuckDBPyConnection, one: Stored) -> datetime | None:
    """Return from when on a table's rows are all here, None when retention has ended none."""
    found = local_sql(connection, "local_retained", table=one.name)["since"].to_pylist()
    return next(iter(found), None)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def within(one: Stored, start: datetime | None, end: datetime | None) -> str:
    """Return the condition that a row here is from `start` on, and before `end`."""
    return _between(one, start, end, lambda at: f"{_text(at.isoformat())}::timestamptz")


def _remote(one: Stored, start: datetime | None, end: datetime | None) -> str:
    return _between(one, start, end, _instant)


def _between(one: Stored, start: datetime | None, end: datetime | None, say: Callable[[datetime], str]) -> str:
    column = one.time or (one.kept and one.kept.time)
    bounds = [f"{column} {sign} {say(at)}" for sign, at in ((">=", start), ("<", end)) if column and at]
    return " and ".join(bounds) or "true"


def _instant(at: datetime) -> str:
    return f"fromUnixTimestamp64Micro({(at - EPOCH) // timedelta(microseconds=1)}, 'UTC')"


def floored(moment: datetime, width: timedelta) -> datetime:
    """Return the last multiple of `width` up to a moment."""
    seconds = int(width.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // seconds * seconds, UTC)


@cache
def _sql(name: str) -> str:
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")
