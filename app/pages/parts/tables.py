"""Tables with their units and links."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from tailbudget.analytics.drill import Finding

from . import words
from .charts import tools
from .controls import link, only
from .words import NOTHING, duration, utc, zone

LINK = st.column_config.LinkColumn("trace", display_text=r"request=(.*)$", width=130)
TOTAL = st.column_config.NumberColumn("total ms", format="%.0f", width="small")

LATENCY = st.column_config.LinkColumn("Latency", display_text="of its requests")
TOKENS = {"input_tokens": "prompt", "cached_tokens": "cached", "output_tokens": "output"}
MORE = {"more_ms": "more ms, median", "more_p90_ms": "more ms, p90"}


def clock(rows: pa.Table, name: str) -> Any:
    """Return the column of an instant, in the viewer's zone, with how far that is from UTC; on hover its span in UTC.

    A cell cannot have words on hover of its own.
    """
    known, is_utc = rows[name].drop_null(), str(zone()) == "UTC"
    span = f": {utc(*(one.as_py() for one in pc.min_max(known).values()))}" if len(known) else ""
    return st.column_config.DatetimeColumn(
        name,
        format=f"D MMM HH:mm:ss{'' if is_utc else ' Z'}",
        timezone=str(zone()),
        width=125 if is_utc else 165,
        help=f"In {zone()}{span}. The CSV has UTC.",
    )


def _draw(rows: pa.Table, *, height: Literal["content"] | int, column_config: Mapping[str, Any] | None = None) -> None:
    """Draw rows without what the page notes beside them: what has not changed is not drawn again."""
    st.dataframe(
        rows.replace_schema_metadata(None),
        hide_index=True,
        height=height,
        placeholder=NOTHING,
        column_config=column_config,
    )


def violations(rows: pa.Table) -> None:
    """Draw violations: when, trace link, why in a sentence, suspect, total, route, tenant, outcome."""
    _draw(
        rows.select(["started", "trace", "why", "suspect", "total_ms", "route", "tenant", "outcome"]),
        height="content" if rows.num_rows < 11 else 400,
        column_config={
            "started": clock(rows, "started"),
            "trace": LINK,
            "why": st.column_config.TextColumn(width=350),
            "suspect": st.column_config.TextColumn(width=220, help="Who adds most time in that stage."),
            "total_ms": TOTAL,
        },
    )


def suspects(rows: pa.Table) -> None:
    """Draw who adds time to requests, worst first."""
    more = {name: st.column_config.NumberColumn(label, format="%.0f") for name, label in MORE.items()}
    _draw(
        rows.select(["stage", "operation", "service", *MORE]),
        height="content",
        column_config=more,
    )


def running(rows: pa.Table) -> None:
    """Draw requests that still run, oldest first, and what they will come to; nothing when none does."""
    if not rows.num_rows:
        return
    title = f"**Running now**, late or stalled, oldest first · n {rows.num_rows:,}"
    title += f" · not narrowed to {words.plain(only())}" if only() else ""
    tools(rows, title, name="running")
    _draw(
        rows.select(
            ["age_s", "stage", "stalled", "projected_ms", "budget_ms", "route", "tenant", "started", "request_id"]
        ),
        height="content" if rows.num_rows < 8 else 290,
        column_config={
            "age_s": st.column_config.NumberColumn("runs for s", format="%.0f", width="small"),
            "stage": st.column_config.TextColumn("now in", width="small"),
            "stalled": st.column_config.CheckboxColumn("stalled", width="small", help="Its stream has gone silent."),
            "projected_ms": st.column_config.NumberColumn("comes to ms", format="%.0f", help="Its total at this pace."),
            "budget_ms": st.column_config.NumberColumn("budget ms", format="%.0f"),
            "started": clock(rows, "started"),
        },
    )


def requests(rows: pa.Table) -> None:
    """Draw requests, each with the link to its trace in column `trace`."""
    _draw(
        rows.select(["trace", "total_ms", "longest", "started", "route", "tenant", "outcome"]),
        height="content" if rows.num_rows < 10 else 320,
        column_config={
            "trace": LINK,
            "total_ms": TOTAL,
            "longest": st.column_config.TextColumn("longest stage"),
            "started": clock(rows, "started"),
        },
    )


def streams(rows: pa.Table) -> None:
    """Draw streamed calls with what they lost to stalls and slow readers, each with the link to its trace."""
    names = {"stalls": "stalls", "max_gap_ms": "gap ms", "consumer_ms": "reader ms", "chunks": "chunks"}
    numbers = {
        name: st.column_config.NumberColumn(label, format="%.0f", width="small") for name, label in names.items()
    }
    _draw(
        rows.select(["trace", *names, "started", "model", "instance", "outcome"]),
        height="content" if rows.num_rows < 6 else 212,
        column_config={"trace": LINK, "started": clock(rows, "started"), **numbers},
    )


def step(rows: pa.Table) -> None:
    """Draw the calls that were inside an engine at one moment, each with the link to its trace; nothing without any."""
    if not rows.num_rows:
        return
    names = {"since_ms": "for ms", "total_ms": "total ms", **TOKENS}
    numbers = {name: st.column_config.NumberColumn(label, format="%.0f", width=68) for name, label in names.items()}
    _draw(
        rows.select(["trace", "phase", "since_ms", "total_ms", "tenant", "route", *TOKENS, "model"]),
        height="content" if rows.num_rows < 11 else 400,
        column_config={"trace": LINK, "phase": st.column_config.TextColumn("is in", width=66), **numbers},
    )


def hops(rows: pa.Table) -> None:
    """Draw hops with what changed against the week before, each with the way to the Latency of its requests."""
    units = {
        "calls_per_request": ("a request", "%.2f"),
        "p95_ms": ("p95 ms", "%.0f"),
        "p95_ms_before": ("week before", "%.0f"),
        "connect_ms": ("round trip ms", "%.1f"),
        "new_share": ("new connections", "percent"),
        "failed_share": ("failed", "percent"),
    }
    numbers = {name: st.column_config.NumberColumn(label, format=shape) for name, (label, shape) in units.items()}
    ways = [_latency(f"hop {row['caller']} > {row['callee'].partition(':')[2]}") for row in rows.to_pylist()]
    shown = rows.append_column("latency", pa.array(ways, pa.string()))
    _draw(
        shown.select(["caller", "callee", "n", *units, "change", "from_region", "to_region", "latency"]),
        height="content" if rows.num_rows < 10 else 380,
        column_config={
            **numbers,
            "from_region": "from region",
            "to_region": "to region",
            "latency": LATENCY,
        },
    )


def nodes(rows: pa.Table) -> None:
    """Draw services, engines, providers, stores, tools and other peers."""
    kinds = zip(rows["kind"].to_pylist(), rows["name"].to_pylist(), strict=True)
    ways = [_latency(f"service {name}") if kind in ("service", "engine") else None for kind, name in kinds]
    shown = rows.append_column("latency", pa.array(ways, pa.string()))
    for name in ("requests", "spans"):  # a store or a provider that tells nothing itself has none of its own
        counted = pc.if_else(pc.equal(rows[name], 0), None, rows[name])
        shown = shown.set_column(shown.column_names.index(name), name, counted)
    _draw(
        shown.select(["kind", "name", "region", "requests", "p95_ms", "spans", "change", "latency"]),
        height="content" if rows.num_rows < 10 else 380,
        column_config={
            "p95_ms": st.column_config.NumberColumn("p95 ms of its requests", format="%.0f"),
            "latency": LATENCY,
        },
    )


def _latency(only: str) -> str:
    """Return the way to the Latency of what touches a service or a hop, over the day that the map is of."""
    return link("latency", only=only, range="24h", between=None)


def calls(rows: pa.Table) -> None:
    """Draw the model calls of a request, each with who told of it."""
    spans = sum(rows["spans"].to_pylist())
    twins = f"joined from {spans} spans that told the same" if spans > rows.num_rows else "no duplicate was joined"
    tools(rows, f"**Model calls** · n {rows.num_rows} · {twins}", name="calls")
    names = ("total_ms", "ttft_ms", "tpot_ms", "max_gap_ms", "consumer_ms")
    numbers = {name: st.column_config.NumberColumn(name.replace("_", " "), format="%.1f") for name in names}
    told: dict[str, Any] = {"spans": "joined from", "told_by": st.column_config.TextColumn("told by", width=250)}
    texts = {**TOKENS, "finish_reason": "finish", "server_address": "server"}
    _draw(
        rows.select([*(name for name in rows.column_names if name not in told), *told]),
        height="content",
        column_config={**numbers, **texts, **told},
    )


def linked(rows: pa.Table) -> pa.Table:
    """Return the rows with `trace`, the address of each request's trace."""
    ids = (quote(str(one), safe="") for one in rows["request_id"].to_pylist())
    return rows.append_column("trace", pa.array([f"/trace?request={one}" for one in ids], pa.string()))


def findings(found: Sequence[Finding]) -> pa.Table:
    """Return what `drill` found as the rows of the chart `findings`, at most ten."""
    shown = [
        {**asdict(one), "label": f"{one.dimension} {one.value}", "place": place}
        for place, one in enumerate(one for one in found if one.extra > 0)
    ]
    return pa.Table.from_pylist(shown[:10])


def stages(rows: pa.Table) -> None:
    """Draw the nine stages of a request: critical time, busy time, budget and excess in ms."""
    total_ms = sum(ms or 0 for ms in rows["critical_ms"].to_pylist())
    tools(rows, f"Stages on the critical path, which add up to {duration(total_ms)}", name="stages")
    names = {"critical_ms": "critical ms", "busy_ms": "busy ms", "budget_ms": "budget ms", "over_ms": "over by ms"}
    numbers = {name: st.column_config.NumberColumn(label, format="%.1f") for name, label in names.items()}
    _draw(
        rows.select(["stage", "spans", *names]),
        column_config=numbers,
        height="content",
    )


def missing(seen: pa.Table) -> pa.Table:
    """Return one row a hole of the services of an answer of `coverage`: service, what, add (the line that mends it)."""
    rows = [{"service": row["service"], **hole} for row in seen.to_pylist() for hole in row["missing"]]
    schema = pa.schema([(name, pa.string()) for name in ("service", "what", "add")], metadata=seen.schema.metadata)
    return pa.Table.from_pylist(rows, schema=schema)


def plain(rows: pa.Table, column_config: Mapping[str, Any] = {}) -> None:
    """Draw rows as they are but for `column_config`, instants in the viewer's zone."""
    instants = [field.name for field in rows.schema if pa.types.is_timestamp(field.type) and field.type.tz]
    _draw(
        rows,
        height="content" if rows.num_rows < 10 else 380,
        column_config={name: clock(rows, name) for name in instants} | dict(column_config),
    )


def named(rows: pa.Table) -> None:
    """Draw rows of ours: the names of their columns as words, shares in percent, other fractions to two places."""
    shown = rows.rename_columns([name.replace("_", " ") for name in rows.column_names])
    fractions = [field.name for field in shown.schema if pa.types.is_floating(field.type)]
    numbers = {name: "percent" if name.endswith("share") else "%.2f" for name in fractions}
    plain(shown, {name: st.column_config.NumberColumn(name, format=shape) for name, shape in numbers.items()})


def columns(rows: pa.Table, *, table: str | None) -> None:
    """Draw the columns of one table, with what each means."""
    shown = rows.filter(pc.equal(rows["table_name"], table)).select(["column_name", "data_type", "comment"])
    short = pc.replace_substring(shown["data_type"], "TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")
    shown = shown.set_column(1, "type", short).rename_columns(["column", "type", "is"])
    widths = {name: st.column_config.TextColumn(width=px) for name, px in (("column", 130), ("type", 115), ("is", 400))}
    _draw(shown, height=560, column_config=widths)


def attributes(rows: pa.Table) -> None:
    """Draw the attributes of the spans of a trace, below their count."""
    tools(rows, f"Attributes of its spans · n {rows.num_rows:,}", name="attributes")
    widths = {"span": 150, "service": 90, "stage": 70, "key": 200, "value": 220}
    _draw(
        rows,
        height="content" if rows.num_rows < 10 else 352,
        column_config={name: st.column_config.Column(width=px) for name, px in widths.items()},
    )
