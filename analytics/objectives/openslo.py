"""Objectives of OpenSLO documents, v1 (`openslo/v1`) and v2alpha (`openslo.com/v2alpha`).

A metric comes from this store: its source has the type `duckdb`, and its spec either a `signal` (a measure) with a
`filter` (a condition over `requests`), for a thresholdMetric whose values are milliseconds, or a `filter` alone, for
the good, bad and total of a ratioMetric.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from . import short, words
from .model import MEASURES, Limit, Method, Objective, Period, is_measure
from .tree import Tree

VERSIONS: Final = ("openslo/v1", "openslo.com/v1", "openslo.com/v2alpha")
KINDS: Final = (
    "SLO", "SLI", "Service", "DataSource", "AlertPolicy", "AlertCondition", "AlertNotificationTarget",
)  # fmt: skip
#: budgetingMethod -> ours.
METHODS: Final[dict[str, Method]] = {
    "Occurrences": "occurrences", "Timeslices": "timeslices", "RatioTimeslices": "ratio_timeslices",
}  # fmt: skip
#: What stands where in an SLO document, both versions: a misspelt key must not silently promise something else.
SLO: Final = (
    "description", "service", "indicator", "indicatorRef", "sli", "sliRef", "timeWindow", "budgetingMethod",
    "objectives", "alertPolicies",
)  # fmt: skip
GOAL: Final = (
    "displayName", "labels", "op", "value", "target", "targetPercent", "timeSliceTarget", "timeSliceWindow",
    "indicator", "indicatorRef", "sli", "sliRef", "compositeWeight",
)  # fmt: skip
WINDOW: Final = ("duration", "isRolling", "calendar")
INDICATOR: Final = ("description", "thresholdMetric", "ratioMetric")
RATIO: Final = ("counter", "good", "bad", "total", "rawType", "raw")
METRIC: Final = ("metricSource", "dataSourceRef", "dataSourceSpec", "spec")
SOURCE: Final = ("metricSourceRef", "type", "spec")
QUERY: Final = ("signal", "filter")
OPERATORS: Final = ("lt", "lte")
CALENDAR_OF: Final = {"d": "day", "w": "week", "M": "month", "m": "month", "Q": "quarter", "Y": "year"}
#: Annotations that carry what OpenSLO has no field for: `tailbudget/owner: search`.
ANNOTATION: Final = "tailbudget/"
DETAILS: Final = {word: short.READ[word] for word in ("owner", "runbook", "degrade_first", "notify", "per", "degraded")}


@dataclass(frozen=True, slots=True)
class _Indicator:
    """What is measured: the requests of `where`, by a signal or by a condition for the good ones."""

    where: str = ""
    signal: str = ""
    good: str = ""


def read(trees: Sequence[Tree]) -> Iterator[Objective]:
    """Yield the objectives of the SLO documents among these. Raises ObjectivesError."""
    indicators = {}
    for tree in trees:
        tree.only(("apiVersion", "kind", "metadata", "spec"))
        tree.need("apiVersion").one_of(VERSIONS)
        if tree.need("kind").one_of(KINDS) == "SLI":
            indicators[tree.need("metadata").need("name").text()] = tree.need("spec")
    for tree in trees:
        if tree.need("kind").text() == "SLO":
            yield from _objectives(tree, indicators)


def _objectives(tree: Tree, indicators: dict[str, Tree]) -> Iterator[Objective]:
    metadata, spec = tree.need("metadata"), tree.need("spec")
    spec.only(SLO)
    name = metadata.need("name").text()
    common = replace(_details(metadata), name=name, period=_period(spec), place=tree.place)
    named = spec.get("budgetingMethod")
    method = METHODS[named.one_of(tuple(METHODS))] if named else "occurrences"
    goals = spec.need("objectives").items()
    for index, goal in enumerate(goals):
        goal.only(GOAL)
        shared = _indicator(goal, indicators) or _indicator(spec, indicators)
        if shared is None:
            tree.fail("an indicator is missing: expected `indicator` or `indicatorRef` (v2alpha: `sli` or `sliRef`)")
        one = replace(common, place=goal.place, where=shared.where, good=shared.good, target=_target(goal))
        if len(goals) > 1:
            one = replace(one, name=f"{name}.{index + 1}")
        if shared.signal:
            one = replace(one, limits=(_limit(goal, shared.signal),))
        yield one if method == "occurrences" else _sliced(replace(one, method=method), goal)


def _details(metadata: Tree) -> Objective:
    found = Objective(name="", target=0.0)
    annotations = metadata.get("annotations")
    for key, value in annotations.mapping().items() if annotations else ():
        if key.startswith(ANNOTATION):
            word = key.removeprefix(ANNOTATION)
            if word not in DETAILS:
                value.fail(f"unknown annotation {key!r}: expected {ANNOTATION} and one of {', '.join(DETAILS)}")
            found = DETAILS[word](found, value)
    return found


def _period(spec: Tree) -> Period:
    windows = spec.get("timeWindow")
    if windows is None:
        return Period()
    (window, *more) = windows.items()
    if more:
        more[0].fail("a second timeWindow: expected exactly one")
    window.only(WINDOW)
    duration, calendar = window.need("duration"), window.get("calendar")
    if calendar is None:
        return words.period(duration)
    count, unit = duration.text()[:-1], duration.text()[-1:]
    if count != "1" or unit not in CALENDAR_OF:
        duration.fail(f"{duration.text()!r} of the calendar: expected one of 1d, 1w, 1M, 1Q, 1Y")
    zone = calendar.get("timeZone")
    try:
        ZoneInfo(zone.text() if zone else "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        (zone or calendar).fail(f"{zone.text() if zone else ''!r} is no time zone: expected as in Europe/Berlin")
    return Period(
        days=words.CALENDAR_DAYS[CALENDAR_OF[unit]], calendar=CALENDAR_OF[unit], zone=zone.text() if zone else "UTC"
    )


def _indicator(tree: Tree, indicators: dict[str, Tree]) -> _Indicator | None:
    reference = tree.get("indicatorRef") or tree.get("sliRef")
    if reference is not None:
        return _metric(indicators[reference.one_of(tuple(indicators) or ("(no SLI is in these files)",))])
    inline = tree.get("indicator") or tree.get("sli")
    return None if inline is None else _metric(inline.get("spec") or inline)


def _metric(tree: Tree) -> _Indicator:
    tree.only(INDICATOR)
    threshold, ratio = tree.get("thresholdMetric"), tree.get("ratioMetric")
    if threshold is not None:
        spec = _source(threshold)
        signal = spec.need("signal")
        if not is_measure(signal.text()):
            signal.one_of(MEASURES)
        return _Indicator(where=_filter(spec), signal=signal.text())
    if ratio is None:
        tree.fail("expected a thresholdMetric or a ratioMetric")
    ratio.only(RATIO)
    good, bad = ratio.get("good"), ratio.get("bad")
    chosen = good or bad
    if chosen is None:
        ratio.fail("expected `good` or `bad`, and `total`: a raw ratio has no events to count")
    condition = _filter(_source(chosen)) or chosen.fail("a `filter` is missing")
    return _Indicator(where=_filter(_source(ratio.need("total"))), good=condition if good else f"not ({condition})")


def _source(metric: Tree) -> Tree:
    metric.only(METRIC)
    source, inline = metric.get("metricSource"), metric.get("dataSourceSpec")
    if source is not None:
        source.only(SOURCE)
    kind = (source or inline or metric).get("type")
    if kind is not None and kind.text() != "duckdb":
        kind.fail(f"{kind.text()!r} is another store: expected `type: duckdb`, with a signal or a filter in its spec")
    spec = (source or metric).need("spec")
    spec.only(QUERY)
    return spec


def _filter(spec: Tree) -> str:
    found = spec.get("filter")
    return f"({words.condition(found)})" if found is not None else ""


def _target(goal: Tree) -> float:
    share, percent = goal.get("target"), goal.get("targetPercent")
    if (share is None) == (percent is None):
        goal.fail("expected either `target` (0 to 1) or `targetPercent`")
    if share is not None:
        return share.number(low=0.0, high=0.999999)
    return round(percent.number(low=0.0, high=99.9999) / 100, 9) if percent is not None else 0.0


def _limit(goal: Tree, signal: str) -> Limit:
    below_ms = goal.need("value").number(low=0.001, high=1e9)
    return Limit(signal, below_ms, inclusive=goal.need("op").one_of(OPERATORS) == "lte")


def _sliced(one: Objective, goal: Tree) -> Objective:
    window, share = goal.need("timeSliceWindow"), goal.get("timeSliceTarget")
    slice_s = window.value * 60 if isinstance(window.value, int) else words.seconds(window)
    if not 60 <= slice_s <= 86_400 or 86_400 % slice_s:
        window.fail(f"{window.text()!r} does not divide a day: expected as in 1m, 5m, 15m, 1h")
    target = share.number(low=0.0, high=1.0) if share else one.target
    return replace(one, slice_s=slice_s, slice_target=target)
