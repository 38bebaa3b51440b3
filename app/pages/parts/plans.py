"""A capacity plan on a page: what it is asked for, its figures, and the curve of one replica."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from tailbudget.analytics.capacity import Limits, Replica
from tailbudget.analytics.step_time import StepFit
from tailbudget.analytics.worksheet import OUTAGE_S, Sheet, Terms

from . import cards
from .words import NOTHING, duration

#: Of a load, what has a limit -> what it is called.
MEASURES: Final = {"ttft_ms": "first token", "itl_ms": "between tokens", "final_ms": "last token"}
#: A time of more limits than this is off the picture: what matters is where it crosses one.
MOST_LIMITS: Final = 2.0
CURVES: Final = pa.schema(
    [("region", pa.string()), ("measure", pa.string())]
    + [(name, pa.float64()) for name in ("rate_s", "share", "ms", "limit_ms", "highest_s", "peak_s")]
)


def ask(fits: Sequence[StepFit]) -> dict[str, Any] | None:
    """Draw what a plan needs, as far as engines told filled in; return the arguments of `worksheets`, None while short.

    UserError for what makes no sense.
    """
    first, second = st.columns(5), st.columns(6)
    fit = _engine(first[0], fits)
    base_ms, stream_ms, prompt_ms = (
        _number(column, label, value, key, help_text="Fitted to the engine's samples; another value overrides it.")
        for column, label, value, key in zip(
            first[1:4],
            ("a step, ms", "more a stream, ms", "more a prompt token, ms"),
            (fit.base_ms, fit.stream_ms, fit.prompt_token_ms) if fit else (0.0, 0.0, 0.0),
            ("step", "stream", "prompt"),
            strict=True,
        )
    )
    chunk = _number(first[4], "prompt tokens a step", 128, "chunk")
    limits = [
        _number(column, f"{name}, ms", value, key, help_text="0 for no limit.")
        for column, name, value, key in zip(second, MEASURES.values(), (500, 0, 0), MEASURES, strict=False)
    ]
    gpus, usd, free = (
        _number(column, label, value, key)
        for column, label, value, key in zip(
            second[3:], ("GPUs a replica", "$ a GPU hour", "% of the peak free"), (1, 0.0, 20), ("gpus", "usd", "free"),
            strict=True,
        )
    )  # fmt: skip
    if not base_ms + stream_ms:
        st.info("No engine told its steps in this range: say how long one takes, or run `tailbudget runtime`.")
        return None
    ttft_ms, itl_ms, final_ms = (limit or None for limit in limits)
    terms = Terms(free / 100, gpus=int(gpus), usd_per_gpu_hour=usd or None)
    step = {"base_ms": base_ms, "stream_ms": stream_ms, "prompt_token_ms": prompt_ms}
    return {
        "replica": Replica(**step, max_running=terms.most_running, prefill_chunk=int(chunk)),
        "limits": Limits(ttft_ms=ttft_ms, itl_ms=itl_ms, final_ms=final_ms),
        "terms": terms,
    }


def _engine(column: Any, fits: Sequence[StepFit]) -> StepFit | None:
    by_name = {fit.instance: fit for fit in fits}
    named = column.selectbox("Engine", list(by_name), key="engine", bind="query-params", placeholder="none told")
    return by_name.get(named)


def _number(column: Any, label: str, value: float, key: str, *, help_text: str | None = None) -> float:
    step, form = (1, "%d") if isinstance(value, int) else (0.01, "%.4g")
    found = column.number_input(
        label, min_value=type(value)(0), value=value, step=step, format=form, key=key, bind="query-params",
        help=help_text,
    )  # fmt: skip
    return float(found)


def cards_of(sheet: Sheet) -> None:
    """Draw replicas, what one holds, GPU hours and cost, and what becomes of the queue when one is away."""
    peak, hourly = sheet.at_peak, sheet.hourly_gpu_hours_day
    usd = NOTHING if sheet.usd_day is None else f"${sheet.usd_day:,.0f}"
    by_hour = "the same all day" if hourly is None else f"{hourly:,.0f} by the hour"
    queue = f"{peak.waiting:.2f} wait, busy {peak.utilisation:.0%}"
    cards.show(
        [
            cards.Card("replicas", f"{sheet.replicas:,}", f"up to {sheet.replica.max_running} requests at once each"),
            cards.Card("peak, p99 of a minute", f"{sheet.demand.peak_s:,.2f} / s", queue),
            cards.Card("one holds", f"{sheet.highest_s:,.2f} / s", f"batch {peak.batch:.1f} in the peak"),
            cards.Card("GPU hours a day", f"{sheet.gpu_hours_day:,.0f}", by_hour),
            cards.Card("cost a day", usd, "of GPU hours"),
            _away(sheet),
        ]
    )


def _away(sheet: Sheet) -> cards.Card:
    minutes = f"{OUTAGE_S / 60:.0f} minutes with one away"
    if sheet.one_less is None or sheet.outage_wait_s is None:
        return cards.Card(minutes, "▲ outage", "it is the only one", "bad")
    grows = sheet.one_less.growth_s * (sheet.replicas - 1) * 60
    if not grows:
        return cards.Card(minutes, "no queue", f"{sheet.one_less.waiting:.2f} wait", "good")
    return cards.Card(minutes, f"▲ {duration(1e3 * sheet.outage_wait_s)} wait", f"+{grows:,.0f} a minute", "bad")


def sentence(sheet: Sheet) -> str:
    """Return what the plan rests on, in a line."""
    step = sheet.replica
    return (
        f"A step takes {step.base_ms:.3g} ms, {step.stream_ms:.3g} ms more a stream, {step.prompt_token_ms:.3g} ms "
        f"more a prompt token; {sheet.terms.headroom:.0%} of the peak stay free; waiting = rate x wait (Little)"
    )


def curves(sheets: Iterable[Sheet]) -> pa.Table:
    """Return one row a region, limited measure and rate: its time, limit and their ratio, MOST_LIMITS at most.

    Where the queue grows without end there is no time, and the ratio is MOST_LIMITS.
    """
    rows = [
        {
            "region": sheet.demand.region, "measure": name, "rate_s": load.rate_s, "limit_ms": limit_ms,
            "ms": ms if math.isfinite(ms) else None,
            "share": min(MOST_LIMITS, ms / limit_ms), "highest_s": sheet.highest_s, "peak_s": sheet.at_peak.rate_s,
        }
        for sheet in sheets
        for field, name in MEASURES.items()
        if (limit_ms := getattr(sheet.limits, field)) is not None
        for load in sheet.curve
        for ms in (getattr(load, field),)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CURVES)


def of_region(found: pa.Table, region: str) -> pa.Table:
    """Return the rows of one region, with the SQL that gave them."""
    return found.filter(pc.equal(found["region"], region))


def rows(told: Sequence[Mapping[str, Any]], like: pa.Table) -> pa.Table:
    """Return rows as a table, empty ones too, with the SQL that gave `like`."""
    return pa.Table.from_pylist([dict(row) for row in told]).replace_schema_metadata(like.schema.metadata)
