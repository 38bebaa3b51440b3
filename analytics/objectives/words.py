"""The short words of an objectives file: `p95 < 2.5s`, `99.5%`, `30d`, and conditions over requests."""

import json
import re
from typing import Any, Final

from tailbudget.instrument.vocabulary import STAGES

from ..duck import connect
from .model import DAY_S, MEASURES, Limit, Period, is_measure
from .tree import Tree

UNITS_MS: Final = {"ms": 1.0, "s": 1000.0, "m": 60_000.0, "min": 60_000.0}
LENGTH: Final = r"(?P<length>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|min|m)"
SHARE: Final = r"(?:p(?P<rank>\d{1,2}(?:\.\d+)?)|(?P<percent>\d{1,2}(?:\.\d+)?)\s*%)"
#: p95 < 2.5s
THRESHOLD: Final = re.compile(rf"{SHARE}\s*(?P<op><=?)\s*{LENGTH}")
#: total < 2.5s
LIMIT: Final = re.compile(rf"(?P<measure>[\w+]+)\s*(?P<op><=?)\s*{LENGTH}")
#: 95% of total < 2.5s, ttft < 500ms
GOODPUT: Final = re.compile(rf"{SHARE}\s+of\s+(?P<limits>.+)")
ONLY_SHARE: Final = re.compile(SHARE)
#: Days of a period of the calendar, the longest that it can be.
CALENDAR_DAYS: Final = {"day": 1, "week": 7, "month": 31, "quarter": 92, "year": 366}
#: duration-shorthand of OpenSLO (v1 has M for months and Y for years).
SPAN: Final = re.compile(r"(\d{1,3})([mhdwMQY])")
SPAN_S: Final = {"m": 60, "h": 3600, "d": DAY_S, "w": 7 * DAY_S, "M": 30 * DAY_S, "Q": 90 * DAY_S, "Y": 365 * DAY_S}

#: The columns of `requests` that a condition may name.
COLUMNS: Final = (
    "service", "route", "tenant", "model", "version", "region", "conversation_id", "outcome", "left_in_stage", "calls",
    "tool_rounds", "attempts", "input_tokens", "output_tokens", "cached_tokens", "prompt_bucket", "fallback",
    "feedback", "cost_usd", "root_kind", "total_ms", "ttft_ms", "usable_ms", "final_ms", *(f"{s}_ms" for s in STAGES),
)  # fmt: skip
#: What a condition may consist of, by the classes of DuckDB's expression tree: it reads columns and compares.
EXPRESSIONS: Final = frozenset(
    {"COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "OPERATOR", "BETWEEN", "CAST", "FUNCTION", "COLLATE"}
)
#: The functions among them; operators such as `like` are functions to DuckDB.
FUNCTIONS: Final = frozenset(
    {
        "~~", "!~~", "~~*", "!~~*", "like_escape", "starts_with", "ends_with", "contains", "prefix", "suffix", "lower",
        "upper", "coalesce", "regexp_matches", "regexp_full_match", "+", "-", "*", "/", "length",
    }
)  # fmt: skip


def threshold(tree: Tree, measure: str) -> tuple[float, Limit]:
    """Return target and limit of `p95 < 2.5s` or `95% < 2.5s`."""
    found = THRESHOLD.fullmatch(tree.text())
    if found is None:
        tree.fail(f"{tree.text()!r} is no limit: expected as in `{measure}: p95 < 2.5s` or `99% <= 500ms`")
    return share_of(found), _limit(tree, found, measure)


def goodput(tree: Tree) -> tuple[float, tuple[Limit, ...]]:
    """Return target and limits of `95% of total < 2.5s, ttft < 500ms`."""
    found = GOODPUT.fullmatch(tree.text())
    if found is None:
        tree.fail(f"{tree.text()!r}: expected as in `goodput: 95% of total < 2.5s, ttft < 500ms`")
    limits = []
    for text in found["limits"].split(","):
        one = LIMIT.fullmatch(text.strip())
        if one is None:
            tree.fail(f"{text.strip()!r} is no limit: expected as in `total < 2.5s`")
        if not is_measure(one["measure"]):
            tree.fail(f"{one['measure']!r} is no measure: expected one of {', '.join(MEASURES)}")
        limits.append(_limit(tree, one, one["measure"]))
    return share_of(found), tuple(limits)


def share(tree: Tree) -> float:
    """Return the share of `99.5%`."""
    found = ONLY_SHARE.fullmatch(tree.text())
    return share_of(found) if found else tree.fail(f"{tree.text()!r} is no share: expected as in `99.5%`")


def share_of(found: re.Match[str]) -> float:
    """Return the share that a match of SHARE names."""
    return round(float(found["rank"] or found["percent"]) / 100, 9)


def _limit(tree: Tree, found: re.Match[str], measure: str) -> Limit:
    below_ms = float(found["length"]) * UNITS_MS[found["unit"]]
    if below_ms <= 0:
        tree.fail(f"{tree.text()!r}: a limit of 0 is never met")
    return Limit(measure, below_ms, inclusive=found["op"] == "<=")


def seconds(tree: Tree) -> int:
    """Return the seconds of `5m`, `1h`, `30d`, `4w`."""
    found = SPAN.fullmatch(tree.text())
    if found is None or not int(found[1]):
        tree.fail(f"{tree.text()!r} is no length of time: expected as in 5m, 1h, 30d, 4w")
    return int(found[1]) * SPAN_S[found[2]]


def period(tree: Tree) -> Period:
    """Return the period of `30d`, `4w` or of a word of the calendar."""
    text = tree.text()
    if text in CALENDAR_DAYS:
        return Period(days=CALENDAR_DAYS[text], calendar=text)
    days, rest = divmod(seconds(tree), DAY_S)
    if rest or not 1 <= days <= 366:
        tree.fail(f"{text!r} as a window: expected whole days, from 1d to 366d, or one of {', '.join(CALENDAR_DAYS)}")
    return Period(days=days)


def condition(tree: Tree) -> str:
    """Return an SQL condition over the columns of `requests`. Fails where it is more than that, or no SQL."""
    text = tree.text()
    # `case when` and not `where (...)`: there `a) or (b` would pass for a condition.
    statement = f"select 1 from requests where case when {text} then true end"  # noqa: S608 - parsed, not run
    with connect() as connection:
        row = connection.execute("select json_serialize_sql($1)", [statement]).fetchone()
    found: dict[str, Any] = json.loads(row[0]) if row else {}
    if found.get("error"):
        tree.fail(f"{text!r} is no SQL condition: {found.get('error_message')}")
    nodes = [statement["node"] for statement in found["statements"]]
    if len(nodes) != 1 or "--" in text or nodes[0]["modifiers"]:
        tree.fail(f"{text!r} is more than a condition: expected as in route = '/chat' and tenant <> 'test'")
    _check(tree, nodes[0]["where_clause"]["case_checks"])
    return text


def _check(tree: Tree, node: object) -> None:
    if isinstance(node, list):
        for item in node:
            _check(tree, item)
    elif isinstance(node, dict):
        kind, name = node.get("class"), str(node.get("function_name", ""))
        if kind is not None and (kind not in EXPRESSIONS or (kind == "FUNCTION" and name not in FUNCTIONS)):
            tree.fail(
                f"{tree.text()!r}: {name or str(kind).lower()!r} is refused here: a condition compares columns of "
                "`requests` with values"
            )
        if kind == "COLUMN_REF" and (column := node["column_names"][-1]) not in COLUMNS:
            tree.fail(f"{tree.text()!r}: requests have no column {column!r}: expected one of {', '.join(COLUMNS)}")
        for value in node.values():
            _check(tree, value)
