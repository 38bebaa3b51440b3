"""The parts of one collector, built in the order in which they need each other and closed in the reverse."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import duckdb
import numpy as np

from tailbudget.analytics.overview import assembly_lag
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.instrument.errors import UserError
from tailbudget.instrument.vocabulary import convert

from .alerting import Duty, ObjectiveFiles, SagAlerts
from .api.queries import Queries
from .assemble import Assembler, FileBudgets, Live, pack_rollup
from .counters import Counters
from .erasure import Erasures
from .journal.record import path_of, read
from .journal.recover import recover
from .journal.writer import Journal, Limits, Position
from .land.database import open_database
from .land.lander import Chore, Lander
from .land.landing import Landing, landing_sql
from .land.portion import Entry
from .land.seen import Keys
from .outward import Outward, stores
from .receive.batches import CONTENT_DROPPED, Batches
from .receive.decoder import decoder_of
from .receive.intake import Intake, decode
from .seal.forensics import Forensics
from .seal.retention import Retention
from .seal.sealer import Sealer, delete_unlisted
from .seal.snapshot import Snapshots
from .settings import CollectorSettings

log: Final = logging.getLogger(__name__)

JOURNAL: Final = "journal"
ASSEMBLE_EVERY_S: Final = 2.0
ALERT_EVERY_S: Final = 5.0
SEAL_EVERY_S: Final = 60.0
FORGET_EVERY_S: Final = 3600.0
ERASE_EVERY_S: Final = 0.5
PACK_EVERY_S: Final = 3600.0
LAND_WITHIN_S: Final = 5.0


class Collector:
    """Everything behind the two servers. Raises UserError when the data folder cannot be used."""

    def __init__(self, settings: CollectorSettings) -> None:
        self._settings = settings
        self._content = settings.content_rule()
        self._folder = settings.data / JOURNAL
        self._objectives = ObjectiveFiles(settings.slo)
        self.counters = Counters()
        self.counters.decoder.labels(decoder_of(self._content)).set(1)
        self._connection = _open(settings)
        try:
            known = self._body_keys()
            backlog, segment = self._recover(known)
            landing = Landing(self._connection)
        except BaseException:
            self._connection.close()
            raise
        self.queries, self.snapshots = _queries(self._connection, settings), Snapshots(self._connection.cursor())
        self._sealer = Sealer(self._connection, settings.data, seal_after=settings.seal_after)
        self.erasures = self._erasures()
        self.duty = Duty(self._connection, self._objectives, self.counters)
        unlanded = sum(entry.nbytes for entry in backlog)
        self._journal = Journal(self._folder, segment=segment, limits=_limits(settings), unlanded=unlanded)
        self.counters.journal.set_function(lambda: self._journal.unlanded_bytes)
        self._lander = self._make_lander(landing, backlog)
        self.intake = Intake(
            journal=self._journal,
            lander=self._lander,
            counters=self.counters,
            content=self._content,
            max_spans=settings.max_spans_per_body,
            known=np.concatenate([known, _keys([entry.digest for entry in backlog])]),
        )
        self._journal.start()
        self._lander.start()
        self._outward = Outward(stores(self._connection, settings), self.counters)

    def _make_lander(self, landing: Landing, backlog: Sequence[Entry]) -> Lander:
        return Lander(
            landing,
            load=self._load,
            landed=lambda upto, nbytes: self._journal.landed(upto, nbytes=nbytes),
            counters=self.counters,
            chores=self._chores(),
            queue_bytes=self._settings.queue_bytes,
            backlog=backlog,
        )

    @property
    def fault(self) -> str | None:
        """Why nothing more is taken until a new start, which recovers what was acknowledged; None while all is well."""
        return self._lander.fault or self._journal.fault

    def close(self) -> None:
        """Land what was acknowledged, at most for a few seconds, and close the data file; the rest stays journaled."""
        self.intake.close()
        self._outward.close()
        self._journal.close()
        if self._lander.close(within_s=LAND_WITHIN_S):
            self._journal.discard()
        self._sealer.abandon()
        self.duty.close()
        self.queries.close()
        self._connection.close()

    def _erasures(self) -> Erasures:
        return Erasures(
            self._connection,
            self._settings.data,
            abandon=lambda: self._sealer.abandon(),
            roll=lambda: self._journal.roll(),
            waits=lambda segment: self._lander.has_before(segment),
            discard=lambda segment: self._journal.discard_before(segment),
        )

    def _chores(self) -> Sequence[Chore]:
        connection = self._connection
        settings = self._settings
        budgets = FileBudgets(connection, lambda: self._objectives.watched.objectives)
        live, assembler = (
            Live(connection, budgets=budgets),
            Assembler(connection, prices=settings.prices, budgets=budgets),
        )
        delete_unlisted(connection, settings.data)
        retention = Retention(connection, settings.data, keep=settings.keep, counters=self.counters)
        return [
            *self.duty.chores(),
            Chore("running requests", ASSEMBLE_EVERY_S, live.tick),
            Chore("erasure", ERASE_EVERY_S, lambda _: self.erasures.run()),
            Chore("assembly", ASSEMBLE_EVERY_S, lambda now: self._assemble(assembler, now)),
            Chore("sag alerts", ALERT_EVERY_S, SagAlerts(connection, settings.sag).update, share=0.1),
            Chore("packing the roll-up", PACK_EVERY_S, lambda now: pack_rollup(connection, now)),
            Chore("sealing", SEAL_EVERY_S, self._sealer.tick),
            Chore("retention", SEAL_EVERY_S, retention.tick),
            Chore("forensics", SEAL_EVERY_S, Forensics(connection, settings.data).tick),
            Chore(
                "forgetting bodies",
                FORGET_EVERY_S,
                lambda now: connection.execute(landing_sql("forget_bodies"), {"now": now}).fetchall(),
            ),
        ]

    def _assemble(self, assembler: Assembler, now: datetime) -> bool:
        unfinished = assembler.tick(now).unfinished
        lag_s = assembly_lag(ConnectionReader(self._connection), now=datetime.now(UTC))["lag_s"][0].as_py()
        self.counters.assembly_lag_s.set(lag_s or 0.0)
        return unfinished

    def _body_keys(self) -> Keys:
        now = {"now": datetime.now(UTC)}
        digests = self._connection.cursor().sql(landing_sql("body_keys"), params=now).to_arrow_table()["digest"]
        return _keys(digests.to_pylist())

    def _recover(self, known: Keys) -> tuple[list[Entry], int]:
        """Return what has to land, each body once, and the segment at which writing goes on."""
        ((segment, offset),) = self._connection.execute("select journal_segment, journal_offset from meta").fetchall()
        try:
            recovered = recover(self._folder, landed=Position(segment, offset))
        except OSError as error:
            raise UserError(
                f"the journal in {self._folder} cannot be used ({error.strerror}): mend it, or name another --data"
            ) from error
        if recovered.damaged:
            self.counters.dropped("journal", "damaged", recovered.damaged)
        seen = set(known.tolist())
        entries: list[Entry] = []
        for left in recovered.records:
            key = int.from_bytes(left.digest[:8], "big")
            if key not in seen:
                seen.add(key)
                arrived_s = convert(left.arrived_ns, "ns", "s")
                entries.append(Entry(start=left.start, end=left.end, digest=left.digest, arrived_s=arrived_s))
        if entries:
            log.info("%d bodies of an earlier run are landing", len(entries))
        return entries, recovered.next_segment

    def _load(self, entry: Entry) -> Batches:
        record = read(path_of(self._folder, entry.start.segment), start=entry.start.offset)
        batches = decode(record.signal, record.body(), content=self._content)
        if record.content_dropped:  # before it was journaled: whose it was is told by the first resource
            batches.health[batches.resources["service"][0].as_py(), CONTENT_DROPPED] += record.content_dropped
        return batches


def _open(settings: CollectorSettings) -> duckdb.DuckDBPyConnection:
    return open_database(settings.data, memory_limit=settings.memory_limit, temp_limit=settings.temp_limit)


def _queries(connection: duckdb.DuckDBPyConnection, settings: CollectorSettings) -> Queries:
    return Queries(connection.cursor(), folder=settings.data, reserve_bytes=2 * settings.free_bytes)


def _limits(settings: CollectorSettings) -> Limits:
    return Limits(
        journal_bytes=settings.journal_bytes, segment_bytes=settings.segment_bytes, free_bytes=settings.free_bytes
    )


def _keys(digests: Sequence[bytes]) -> Keys:
    return np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2)[:, 0].astype(np.uint64)
