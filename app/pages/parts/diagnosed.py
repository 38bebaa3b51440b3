"""Findings of the diagnoses in words: what each rule means, the picture that shows it, and a card a trouble."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, timedelta
from html import escape
from typing import Any, Final, NamedTuple

import pyarrow as pa
import streamlit as st

from tailbudget.analytics.window import Window

from . import controls
from .charts import is_light
from .words import duration, html_clock

#: Rule -> what it means, and the page with the picture that shows it.
RULES: Final = {
    "agent_loop": ("An agent goes in circles", "stages"),
    "batching_misconfig": ("Batches are too small for the GPU", "gpu"),
    "blocked_loop": ("The event loop or the reader is blocked", "token-rate"),
    "breaker_open": ("A circuit breaker is open", "violations"),
    "buffered_stream": ("A stream is held back before the client", "latency"),
    "cache_hit_low": ("A cache rarely hits", "stages"),
    "cold_start": ("A cold start makes requests wait", "latency"),
    "dropped": ("Clients leave before they have an answer", "violations"),
    "far_endpoint": ("A peer is far away", "map"),
    "hol_blocking": ("A long prompt blocks the others", "gpu"),
    "kv_pressure": ("The KV cache is full", "gpu"),
    "littles_law": ("Requests in flight do not add up", "coverage"),
    "looks_fast_ends_late": ("Starts fast, ends late", "latency"),
    "no_pooling": ("Connections are not kept", "map"),
    "noisy_tenant": ("One tenant crowds out the others", "gpu"),
    "output_uncapped": ("Answers have no limit", "latency"),
    "oversized_model": ("A large model gives tiny answers", "stages"),
    "p95_over_2s": ("p95 is over 2 s", "latency"),
    "prompt_bloat": ("Prompts are too long", "stages"),
    "queue_deep": ("A queue is deeper than it can be served", "gpu"),
    "queue_precedes_timeout": ("A queue grows towards its timeout", "gpu"),
    "rate_limited": ("A provider refuses calls", "map"),
    "scheduler_bug": ("The GPU idles while requests wait", "gpu"),
    "tool_series": ("Tools run one after the other", "stages"),
    "unpredictable": ("The same request takes very different times", "latency"),
}
#: What the pages are called that are linked to.
PAGES: Final = {
    "coverage": "Coverage",
    "gpu": "GPU runtime",
    "latency": "Latency",
    "map": "Map",
    "stages": "Stages",
    "token-rate": "Token rate",
    "violations": "Violations",
}
#: Rules judge minutes: asking more often tells nothing new.
RHYTHM_S: Final = 60
#: A finding is about so long before it.
JUDGED: Final = timedelta(minutes=5)
STYLE = """<style>
.found { border: 1px solid #2c3140; border-left: 4px solid #f2a83b; border-radius: 6px; padding: 10px 14px;
  margin-bottom: 10px; display: grid; grid-template-columns: minmax(0, 1fr) auto; column-gap: 20px }
.found.page { border-left-color: #f2765d }
.found .what { font-weight: 600; overflow-wrap: anywhere }
.found .quiet { color: #aab2c5; font-size: 13px; overflow-wrap: anywhere }
.found .save { text-align: right; white-space: nowrap } .found .save b { font-size: 20px; font-weight: 400 }
.found .advice { margin: 4px 0; overflow-wrap: anywhere } .found a { color: #f2b84b }
@media (max-width: 640px) {
  .found { grid-template-columns: minmax(0, 1fr) } .found .save { display: flex; gap: 16px; align-items: baseline }
}
</style>"""
#: The same in the light theme.
LIGHT = """<style>
.found { border-color: #d5d9e2; border-left-color: #96660a } .found.page { border-left-color: #c8452b }
.found .quiet { color: #4b5468 } .found a { color: #96660a }
</style>"""


class Trouble(NamedTuple):
    """What one rule finds about one thing: the newest finding, how often it was found, and since when."""

    newest: Mapping[str, Any]
    times: int
    since: Any


def shown(found: pa.Table, window: Window) -> pa.Table:
    """Return findings as the rows of the chart `diagnoses`, with the SQL that gave them."""
    rows = found.to_pylist()
    n = found.num_rows
    made = {
        "rule": pa.array([RULES[row["rule"]][0] for row in rows], pa.string()),
        "about": pa.array([about(row) for row in rows], pa.string()),
        "clock": pa.array([f"{row['found_at'].astimezone(UTC):%H:%M:%S}" for row in rows], pa.string()),
        "window_from": pa.array([window.from_ts] * n, pa.timestamp("us", "UTC")),
        "window_to": pa.array([window.to_ts] * n, pa.timestamp("us", "UTC")),
    }
    kept = found.select(["found_at", "severity", "saves_ms"]).rename_columns(["t", "severity", "saves_ms"])
    for name, values in made.items():
        kept = kept.append_column(name, values)
    return kept.replace_schema_metadata(found.schema.metadata)


def troubles(found: pa.Table) -> list[Trouble]:
    """Return one entry a rule and scope of findings that come newest first, in that order."""
    by_scope: dict[tuple[str, str], Trouble] = {}
    for row in found.to_pylist():
        key = row["rule"], row["scope"]
        before = by_scope.get(key)
        by_scope[key] = Trouble(before.newest if before else row, before.times + 1 if before else 1, row["found_at"])
    return list(by_scope.values())


def show(of: list[Trouble]) -> None:
    """Draw a card a trouble: what, about whom, the advice, what it rests on, what it saves and where to look."""
    style = STYLE + LIGHT if is_light() else STYLE
    st.html(style + "".join(map(_card, of)))


def about(row: Mapping[str, Any]) -> str:
    """Return `route /chat, service shop`."""
    return ", ".join(f"{name} {value}" for name, value in json.loads(row["scope"]).items() if value is not None)


def href(row: Mapping[str, Any]) -> str:
    """Return the address of what shows a finding: its request's trace, else the rule's page at its time and scope."""
    if row["request_id"]:
        return controls.link("trace", request=row["request_id"])
    from_ts, to_ts = row["found_at"] - JUDGED, row["found_at"]
    scope = json.loads(row["scope"])
    known = {name: scope[name] for name in controls.FILTERS if scope.get(name)}
    return controls.link(RULES[row["rule"]][1], between=controls.stretch(from_ts, to_ts), **known)


def evidence(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the figures of a finding, `p95 3 s`; lists and ids are left to the rows."""
    for name, value in json.loads(row["evidence"]).items():
        if isinstance(value, float | int):
            is_share = "share" in name or name == "at_least"
            said = duration(value) if name.endswith("_ms") else f"{value:.0%}" if is_share else f"{value:,.4g}"
            yield f"{name.removesuffix('_ms').replace('_', ' ')} {said}"


def _card(one: Trouble) -> str:
    row = one.newest
    what, page = RULES[row["rule"]]
    often = "" if one.times == 1 else f", {one.times} times since {html_clock(one.since)}"
    saves = (
        f'<div><b>{duration(row["saves_ms"])}</b> <span class="quiet">to save</span></div>' if row["saves_ms"] else ""
    )
    look = "a request that shows it" if row["request_id"] else f"{PAGES[page]} at that time"
    severity, rule = escape(row["severity"]), escape(row["rule"])
    return (
        f'<div class="found {severity}"><div>'
        f'<div class="what">{"▲ " if severity == "page" else ""}{escape(what)} · {escape(about(row))}</div>'
        f'<div class="quiet">{severity} · {rule} · found {html_clock(row["found_at"])}{often}</div>'
        f'<div class="advice">{escape(row["advice"])}</div>'
        f'<div class="quiet">{escape(" · ".join(evidence(row)))}</div></div>'
        f'<div class="save">{saves}<a target="_self" href="{escape(href(row))}">{look}</a></div></div>'
    )
