"""Who is to blame: what takes more of a request's time now than in a baseline, best suspect first."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from tailbudget.instrument.errors import UserError

from .breakdown import ATTRIBUTE, REQUEST_SEGMENTS
from .questions import ask
from .reader import Reader
from .window import Window

#: What can be blamed -> the question that says so. The first two read `spans` alone, whatever they are spans of.
QUESTIONS: Final = {"service": "blame", "operation": "blame", "stage": "blame_stages"}
#: That of anything else: a segment of requests, or an attribute.
VALUES: Final = "blame_values"
#: Name of a baseline -> how long before the window it lies.
BASELINES: Final = {"hour": timedelta(hours=1), "week": timedelta(days=7)}


@dataclass(frozen=True)
class Suspect:
    """One row of a ranking: what is blamed, and how many ms more it adds to a request, by its median and its p90."""

    rank: int
    service: str | None
    stage: str | None
    operation: str | None
    value: str | None  # of the segment that was asked for: a tenant, a model, ...
    delta_ms: float
    p90_delta_ms: float


@dataclass(frozen=True)
class Blame:
    """A ranking, and how many requests of the window and of the baseline it rests on."""

    window: Window
    baseline: Window
    by: str
    requests: int
    baseline_requests: int
    ranking: tuple[Suspect, ...]


def blame(reader: Reader, window: Window, *, baseline: Window, by: str = "service") -> Blame:
    """Rank services, operations, stages or values of a segment by the time that they add to a request of `window`.

    `by` is one of QUESTIONS, of `breakdown.REQUEST_SEGMENTS`, or else the key of an attribute of requests' root spans.

    An operation's time is exclusive: its span without the union of its children. It scores calls a request x (median
    now - median in the baseline), weighted by the share of it that is new. A call to another service gives its own
    time, the network and what waits before the callee's first span, fully to the callee and half to the caller, except
    for what grew for all callees alike, which is the caller's. An error that began in an operation costs what a request
    takes. A request counts in the window in which its first span starts. Raises UserError for windows that overlap,
    QueryError as the reader does.
    """
    for one in (window, baseline):
        if one.from_ts >= one.to_ts:
            raise UserError(f"window {one.from_ts} to {one.to_ts} is empty: expected its end after its start")
    if window.from_ts < baseline.to_ts and baseline.from_ts < window.to_ts:
        raise UserError("the baseline overlaps the window: expected a stretch of time in which all was well")
    params: dict[str, Any] = {**window.span(), "baseline_from_ts": baseline.from_ts, "baseline_to_ts": baseline.to_ts}
    question = QUESTIONS.get(by, VALUES)
    if question == "blame":
        params["by"] = by
    elif question == VALUES:
        known = by in REQUEST_SEGMENTS
        params |= {"by": by if known else None, "attribute": None if known else by.removeprefix(ATTRIBUTE)}
    rows = ask(reader, question, params).to_pylist()
    counts = {name: int(rows[0].pop(name)) for name in ("requests", "baseline_requests")}
    found = [row for row in rows if row["delta_ms"] is not None]
    names = ("service", "stage", "operation", "value", "delta_ms", "p90_delta_ms")
    ranking = tuple(
        Suspect(rank=rank, **{name: row[name] for name in names}) for rank, row in enumerate(found, start=1)
    )
    return Blame(window=window, baseline=baseline, by=by, ranking=ranking, **counts)


def before(window: Window, baseline: str = "hour") -> Window:
    """Return the stretch as long as `window` that lies an hour (or its own length, if longer) or a week before it."""
    if baseline not in BASELINES:
        raise UserError(f"unknown baseline {baseline!r}: expected one of {', '.join(BASELINES)}")
    back = max(BASELINES[baseline], window.to_ts - window.from_ts)
    return Window(window.from_ts - back, window.to_ts - back)


def blame_usual(reader: Reader, window: Window, *, by: str) -> Blame:
    """Rank as `blame` does, against the same length an hour before or, if no request began then, just before."""
    usual, length = before(window), window.to_ts - window.from_ts
    if ask(reader, "any_span", usual.span())["found"][0].as_py():  # 2 ms, where a ranking takes 90
        found = blame(reader, window, baseline=usual, by=by)
        if found.baseline_requests:
            return found
    return blame(reader, window, baseline=Window(window.from_ts - length, window.from_ts), by=by)
