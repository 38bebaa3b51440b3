"""What a request costs from its bytes on the wire to a lake and to ClickHouse, and how many machines a rate needs.

`python benchmarks/scale.py [REQUESTS]` (default 5000, of 14 spans) prints CPU-seconds per 1,000 requests of each step,
bytes a request on the wire and on disk, and from them a table for three rates. Ids and times are random; attributes
repeat, so that real telemetry compresses less well. ClickHouse is its engine embedded (chdb, of `make test-scale`'s
venv) behind HTTP; without it that part is left out, and said to be.
"""

import gzip
import importlib.util
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from assemble import otlp, request
from machine import describe
from tests.scale_support import clickhouse
from tests.spans import EPOCH_NS, MS

from tailbudget.collector.assemble import Assembler
from tailbudget.collector.lake.manifest import Lake
from tailbudget.collector.lake.uploader import Uploader
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.peers.split import split
from tailbudget.collector.receive.intake import decode
from tailbudget.collector.receive.privacy import AS_JOURNALED
from tailbudget.collector.seal.views import BULK
from tailbudget.collector.store.mirror import Mirror, local_sql
from tailbudget.collector.store.tables import tables

T = TypeVar("T")
CHANCE = random.Random(1)
A_BODY = 36  # requests: about 512 spans
RATES = (1_000, 100_000, 10_000_000)
#: Half of two cores: what is left carries readers, bursts and the catching up after a restart.
CORES_USED = 1.0
#: Dollars a month that a core with 4 GB, a GB of SSD and a GB of object store may cost: put in yours.
CORE_USD, SSD_USD, OBJECTS_USD = 25.0, 0.08, 0.023
#: Comparisons of a request beyond the first: more at low rates, fewer at high ones, where each waits longer.
COMPARISONS = 10
#: A store keeps everything for a month, twice; half of its cores are left to questions, and a server has four at least.
KEPT_DAYS, COPIES, STORE_USED, MIN_STORE_CORES = 30, 2, 0.5, 4
CLICKHOUSE = "inserts and merges of ClickHouse"
MEMBERS = tuple(f"http://c{number}:4318" for number in range(3))


def timed(step: str, requests: int, work: Callable[[], T], costs: dict[str, float]) -> T:
    """Return what `work` returns; keep and print its CPU-seconds per 1,000 requests."""
    began = time.process_time()
    done = work()
    costs[step] = (time.process_time() - began) / requests * 1000
    print(f"scale {step}: {costs[step]:.3f} CPU-s per 1,000 requests")
    return done


def scattered(body: bytes) -> bytes:
    """Return the body with random ids, as SDKs draw them, and each span a little later than it was."""
    whole, ids = ExportTraceServiceRequest.FromString(body), dict[bytes, bytes]()
    for span in (span for group in whole.resource_spans for scope in group.scope_spans for span in scope.spans):
        for old, size in ((span.trace_id, 16), (span.trace_id + span.span_id, 8)):
            ids.setdefault(old, CHANCE.randbytes(size))
        parent = (
            ids.setdefault(span.trace_id + span.parent_span_id, CHANCE.randbytes(8)) if span.parent_span_id else b""
        )
        later = CHANCE.randrange(1_000_000)
        span.start_time_unix_nano += later
        span.end_time_unix_nano += later
        span.span_id, span.parent_span_id = ids[span.trace_id + span.span_id], parent
        span.trace_id = ids[span.trace_id]
    return whole.SerializeToString()


def landed(connection: duckdb.DuckDBPyConnection, bodies: Sequence[bytes]) -> None:
    """Decode and land bodies, in transactions of about 30,720 rows as a collector makes them."""
    landing = Landing(connection)
    decoded = [
        Body(digest=number.to_bytes(16, "big"), batches=decode("traces", body, content=AS_JOURNALED))
        for number, body in enumerate(bodies)
    ]
    for at in range(0, len(decoded), 60):
        landing.land(decoded[at : at + 60])


def assembled(connection: duckdb.DuckDBPyConnection) -> None:
    """Assemble all that has landed."""
    assembler = Assembler(connection)
    while assembler.tick(datetime.now(UTC) + timedelta(minutes=1)).unfinished:
        pass


def mirrored(connection: duckdb.DuckDBPyConnection) -> int:
    """Read all rows as a mirror does that inserts them; return their bytes as an insert sends them."""
    sent = 0
    for one in tables().values():
        rows = local_sql(connection, "local_rows", table=one.name, within="true")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
            file.write_table(rows)
        sent += sink.getvalue().size if rows.num_rows else 0
    return sent


def compared(connection: duckdb.DuckDBPyConnection) -> None:
    """Hash all rows, as a mirror does that compares them with the store's."""
    for one in tables().values():
        local_sql(connection, "local_slices", table=one.name, slice="0", within="true")


def stored(connection: duckdb.DuckDBPyConnection, folder: Path, requests: int, costs: dict[str, float]) -> float:
    """Insert all rows into ClickHouse and merge its parts; return its bytes on the disk, and keep what it costs."""
    from tailbudget.collector.engines.clickhouse import connect

    with clickhouse(folder / "clickhouse") as (address, process):
        began = process_s(process.pid)
        Mirror(connection, address).tick(datetime.now(UTC))
        client = connect(address)
        for one in tables().values():
            client.command(f"OPTIMIZE TABLE {one.table} FINAL")
        costs[CLICKHOUSE] = (process_s(process.pid) - began) / requests * 1000
        print(f"scale {CLICKHOUSE}: {costs[CLICKHOUSE]:.3f} CPU-s per 1,000 requests")
        listed = "SELECT table, sum(bytes_on_disk) AS bytes FROM system.parts WHERE active GROUP BY table"
        held = {row["table"]: row["bytes"] for row in client.query_arrow(listed, use_strings=True).to_pylist()}
        client.close()
    return float(sum(held.get(one.table, 0) for one in tables().values()))


def process_s(pid: int) -> float:
    """Return the CPU-seconds that a process has used."""
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, then print the table."""
    print(describe())
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    at_ms = (time.time_ns() - EPOCH_NS) / MS - 3_600_000
    bodies = [
        scattered(
            otlp([span for number in range(at, min(at + A_BODY, requests)) for span in request(number, at=at_ms)])
        )
        for at in range(0, requests, A_BODY)
    ]
    costs: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, open_database(Path(folder)) as connection:
        timed("sharing out by trace", requests, lambda: _split(bodies), costs)
        timed("decoding and landing", requests, lambda: landed(connection, bodies), costs)
        timed("assembly", requests, lambda: assembled(connection), costs)
        sent = timed("reading for the store", requests, lambda: mirrored(connection), costs)
        timed("one comparison with the store", requests, lambda: compared(connection), costs)
        tables_bytes = in_duckdb(connection, Path(folder))
        lake = Lake(f"{folder}/lake")
        uploader = Uploader(connection, lake, seal_after=timedelta(0))
        timed("sealing to a lake", requests, lambda: uploader.tick(datetime.now(UTC) + timedelta(hours=2)), costs)
        files = [one for manifest in lake.manifests().values() for one in manifest.files]
        parquet, sealed = sum(one.bytes for one in files), sum(one.bytes for one in files if one.table in BULK)
        there: dict[str, float] = {}
        held = stored(connection, Path(folder), requests, there) if importlib.util.find_spec("chdb") else 0.0
    wire = sum(len(gzip.compress(body, 6)) for body in bodies)
    written = {
        "wire": wire, "sealed here": sealed, "DuckDB": tables_bytes, "ClickHouse insert": sent, "ClickHouse": held,
        "Parquet": parquet,
    }  # fmt: skip
    sizes = {name: nbytes / requests for name, nbytes in written.items()}
    print("scale bytes a request: " + ", ".join(f"{name} {nbytes:,.0f}" for name, nbytes in sizes.items()))
    here_s = sum(costs.values()) + COMPARISONS * costs["one comparison with the store"]
    for rate in RATES:
        print(told(rate, here_s, there.get(CLICKHOUSE, 0.0), sizes))
    if not held:
        print("scale ClickHouse was not measured: chdb is not installed (make test-scale makes a venv that has it)")


def in_duckdb(connection: duckdb.DuckDBPyConnection, folder: Path) -> int:
    """Return the bytes of what stays in a data file once hours are sealed: requests and all that is made of them."""
    path = folder / "kept.duckdb"
    with duckdb.connect(str(path), config={"storage_compatibility_version": "v1.5.0"}) as kept:
        for name in tables().keys() - set(BULK):
            rows = connection.sql(f"from {name}").to_arrow_table()
            if rows.num_rows:
                kept.register("rows", rows)
                kept.execute(f"create table {name} as from rows")
    return path.stat().st_size


def _split(bodies: Sequence[bytes]) -> None:
    for body in bodies:
        split(body, ExportTraceServiceRequest, "traces", members=MEMBERS, own=MEMBERS[0])


def told(rate: int, here_s: float, there_s: float, sizes: Mapping[str, float]) -> str:
    """Return a line of the table: what a rate of requests a minute needs; CPU-seconds are per 1,000 requests."""
    thousands_a_s, day = rate / 60 / 1000, rate * 1440
    cores, there = thousands_a_s * here_s, thousands_a_s * there_s
    collectors = max(1, -int(-cores // CORES_USED))
    ssd_gb = day * (7 * sizes["sealed here"] + 35 * sizes["DuckDB"]) / 1e9
    objects_gb = day * 30 * sizes["Parquet"] / 1e9
    store_gb = day * KEPT_DAYS * sizes["ClickHouse"] / 1e9 * COPIES
    store_cores = max(MIN_STORE_CORES, there / STORE_USED) * COPIES if there else 0.0
    usd = collectors * 2 * CORE_USD + ssd_gb * SSD_USD + objects_gb * OBJECTS_USD
    store_usd = store_cores * CORE_USD + store_gb * SSD_USD
    return (
        f"scale {rate:>10,} requests a minute: {cores:,.2f} cores busy, {collectors:,} collectors of 2 cores, "
        f"{rate / 60 * sizes['wire'] / 1e6:,.2f} MB/s in, {rate / 60 * sizes['ClickHouse insert'] / 1e6:,.2f} MB/s to "
        f"the store, {ssd_gb:,.0f} GB of SSD, {objects_gb:,.0f} GB of Parquet for 30 days, {usd:,.0f} USD a "
        f"month; ClickHouse: {there:,.2f} cores busy with inserts and merges, {store_cores:,.0f} cores, "
        f"{store_gb:,.0f} GB of SSD, {store_usd:,.0f} USD a month"
    )


if __name__ == "__main__":
    main()
