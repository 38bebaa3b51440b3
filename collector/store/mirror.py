"""Keeps what a collector has in a ClickHouse that many collectors share, however often either of them goes away."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

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
#: Rows of one insert, which ClickHouse takes or leaves as a whole where they are of one partition.
MOST_ROWS: Final = 500_000
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
        began = time.monotonic()
        depth = max((at for at, due_s in enumerate(self._due_s) if began >= due_s), default=None)
        if depth is None:
            return 0
        try:
            written = sum(self._mend(one) for one in self._differing(now, DEPTHS[depth][0]))
        except BaseException:
            self.close()
            raise
        ended = time.monotonic()
        for at in range(depth + 1):  # what is nearer was compared too
            self._due_s[at] = ended + max(DEPTHS[at][1], REST * (ended - began) if at == depth else 0)
        return written

    def close(self) -> None:
        """Let go of the store; the next tick connects again, and compares everything."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _differing(self, now: datetime, depth: timedelta) -> Iterator[Slice]:
        """Yield the slices that are not the same on both sides: minutes up to a quarter of an hour ago, else hours."""
        width = MINUTE if depth <= 15 * MINUTE else HOUR
        for one in tables().values():
            if one.time is None:
                yield Slice(one, self._kept_from(one, now))
            elif (oldest := self._oldest(one, now)) is not None:
                start = oldest if depth > now - oldest else max(oldest, floored(now - depth, width))
                yield from self._unequal(one, start, now + HOUR, width)

    def _oldest(self, one: Stored, now: datetime) -> datetime | None:
        """Return the time of the first row here that the store keeps: one that it ended would be written again."""
        ((first,),) = self._connection.execute(
            f"select epoch_us(min({one.time})) from {one.name}"  # noqa: S608 - names of the schema
        ).fetchall()
        if first is None:
            return None
        return max(EPOCH + timedelta(microseconds=first), self._kept_from(one, now) or EPOCH)

    def _kept_from(self, one: Stored, now: datetime) -> datetime | None:
        """Return from when on the store keeps rows for a while yet, None where it keeps all."""
        kept = self._kept.get(one.name)
        return None if kept is None else now - kept + min(HOUR, kept / 10)

    def _unequal(self, one: Stored, start: datetime, end: datetime, width: timedelta) -> Iterator[Slice]:
        seconds = int(width.total_seconds())
        named = {"table": one.name, "collector": _text(self._collector)}
        here = local_sql(
            self._connection,
            "local_slices",
            **named,
            slice=f"epoch_us({one.time}) // {seconds * 1_000_000}",
            within=within(one, start, end),
        )
        there = self._shared(
            "shared_slices",
            **named,
            slice=f"intDiv(toUnixTimestamp64Micro({one.time}), {seconds * 1_000_000})",
            within=_remote(one, start, end),
        )
        told: list[dict[int, tuple[int, int]]] = [
            {row["slice"]: (row["n"], row["bits"]) for row in side.to_pylist()} for side in (here, there)
        ]
        unequal = [number for number in told[0].keys() | told[1].keys() if told[0].get(number) != told[1].get(number)]
        for first, last in _runs(sorted(unequal), {number: n for number, (n, _) in told[0].items()}):
            begin, finish = (EPOCH + timedelta(seconds=number * seconds) for number in (first, last + 1))
            yield Slice(one, max(begin, start), finish)

    def _mend(self, part: Slice) -> int:
        """Make one slice equal with one insert a MOST_ROWS; return how many rows it wrote."""
        one = part.table
        named = {"table": one.name, "collector": _text(self._collector)}
        here = local_sql(self._connection, "local_rows", **named, within=within(one, part.start, part.end))
        columns = catalog().columns()[one.name]
        shared = {**named, "columns": ", ".join(f"`{name}`" for name in columns)}
        hashes = here["_hash"].to_pylist()
        listed = ", ".join(map(str, hashes)) or "0"
        spread = _remote(one, part.start, part.end)
        known = set(self._shared("shared_rows", **shared, within=spread, hashes=listed, those="1")["_hash"].to_pylist())
        ended = f"{spread} and {self._retained(one)}"
        gone = self._shared("shared_rows", **shared, within=ended, hashes=listed, those="0")
        missing = here.filter(pa.array([each not in known for each in hashes], pa.bool_()))
        changes = [self._marked(missing, gone=0), self._marked(conformed(gone, missing.schema), gone=1)]
        change = pa.concat_tables(changes)
        for start in range(0, change.num_rows, MOST_ROWS):
            self._client.insert_arrow(one.table, change.slice(start, MOST_ROWS), settings=INSERT)
        return int(change.num_rows)

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

    def _shared(self, name: str, **words: str) -> pa.Table:
        return self._client.query_arrow(_sql(name).format(**words), settings=SETTINGS, use_strings=True)


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
