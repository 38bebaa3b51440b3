"""How each engine says a function of DuckDB: the table of `words.csv`, and the few that an expression cannot tell."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

from tailbudget.analytics.reader import QueryError

CLICKHOUSE: Final = "clickhouse"
SPARK: Final = "spark"
#: Where DuckDB's time_bucket begins to count (2000-01-03), in microseconds.
ORIGIN_US: Final = 946_857_600_000_000
UNIT_S: Final = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400, "WEEK": 604_800}
#: DuckDB's words of a form of time -> the engine's.
FORMS: Final = {
    CLICKHOUSE: {"%M": "%i"},
    SPARK: {"%Y": "yyyy", "%m": "MM", "%d": "dd", "%H": "HH", "%M": "mm", "%S": "ss"},
}
LISTED: Final = {
    CLICKHOUSE: "arrayMap(p -> p.2, arraySort(groupArray((_2, _1)) FILTER (WHERE _filter)))",
    SPARK: "transform(array_sort(collect_list(struct(_2 AS k, _1 AS v)) FILTER (WHERE _filter)), p -> p.v)",
}
_PIECE: Final = re.compile(r"((?:[^{}]|\{\{|\}\})+)|\{(?::\.(\d)f)?\}")
#: In any order, as what is sorted then may be; DISTINCT without null.
UNORDERED: Final = {
    CLICKHOUSE: "groupArray(_1) FILTER (WHERE _filter)",
    SPARK: "collect_list(_1) FILTER (WHERE _filter)",
}
DISTINCT: Final = {
    CLICKHOUSE: "groupUniqArray(_1) FILTER (WHERE NOT _1 IS NULL AND _filter)",
    SPARK: "collect_set(_1) FILTER (WHERE _filter)",
}


@cache
def words() -> Mapping[str, Mapping[str, str]]:
    """Return, by function of DuckDB, how each engine says it: `_1` is the first argument, `_filter` the FILTER."""
    with Path(__file__).with_name("words.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@cache
def _dialect() -> Any:
    """Return DuckDB's dialect, in which functions of the table keep their names."""
    tables = {
        name: {word: make for word, make in getattr(DuckDB.Parser, name).items() if word.lower() not in words()}
        for name in ("FUNCTIONS", "FUNCTION_PARSERS")
    }
    parser = type(DuckDB.Parser)("Parser", (DuckDB.Parser,), tables)
    return type(DuckDB)("Questions", (DuckDB,), {"Parser": parser})


def parse(text: str) -> Any:
    """Return the one statement of `text` as DuckDB reads it; raises QueryError."""
    try:
        tree = sqlglot.parse_one(text, read=_dialect())
    except sqlglot.errors.SqlglotError as error:
        raise QueryError(f"this cannot be translated: {error}") from error
    for zoned in reversed(list(tree.find_all(exp.AtTimeZone))):
        if zoned.args["zone"].name == "UTC":
            zoned.replace(zoned.this)  # questions are asked in UTC
    for read in reversed(list(tree.find_all(exp.JSONExtractScalar))):
        value = read.this
        for key in read.expression.find_all(exp.JSONPathKey):
            value = exp.Anonymous(this="attribute", expressions=[value, exp.Literal.string(key.name)])
        read.replace(value)
    return tree


def filled(template: str, engine: str, *arguments: Any, **named: Any) -> Any:
    """Return an expression of the engine with the arguments in the places `_1`, `_2`, ... and `named` in theirs."""
    root = exp.Paren(this=sqlglot.parse_one(f"SELECT {template}", read=engine).selects[0])
    values = {f"_{place}": value for place, value in enumerate(arguments, start=1)} | named
    for column in list(root.find_all(exp.Column)):
        if column.name in values:
            value = values[column.name].copy()
            column.replace(exp.Paren(this=value) if isinstance(value, exp.Binary | exp.Not) else value)
    return root if isinstance(root.this, exp.Binary) else root.this


def said(tree: Any, engine: str) -> Any:
    """Say each function as the engine does; deepest first, so that arguments are said already."""
    for node in reversed(list(tree.find_all(exp.ArrayAgg))):
        if isinstance(node.this, exp.Distinct):
            _put(node, filled(DISTINCT[engine], engine, node.this.expressions[0]))
            continue
        if not isinstance(node.this, exp.Order):
            if any(call.name == "list_sort" for call in _calls_around(node)):
                _put(node, filled(UNORDERED[engine], engine, node.this))
                continue
            raise QueryError("a list without an order cannot be translated: write list(x order by y)")
        _put(node, filled(LISTED[engine], engine, node.this.this, node.this.expressions[0].this))
    for node in reversed(list(tree.find_all(exp.Anonymous))):
        name = node.name.lower()
        if name in words():
            say = SPECIAL.get(name, _plain)
            _put(node, say(list(node.expressions), words()[name][engine], engine))
    return tree


def _calls_around(node: Any) -> Iterator[Any]:
    """Yield the calls of which the node is an argument, or an argument's."""
    while isinstance(node := node.parent, exp.Func):
        yield node


def _plain(arguments: list[Any], template: str, engine: str) -> Any:
    if f"_{len(arguments)}" not in template:
        raise QueryError(f"a function with {len(arguments)} arguments cannot be translated: expected {template}")
    return filled(template, engine, *arguments)


def _range(arguments: list[Any], template: str, engine: str) -> Any:
    first = arguments[0] if len(arguments) > 1 else exp.Literal.number(0)
    return filled(template, engine, first, arguments[-1])


def _put(node: Any, said: Any) -> None:
    """Put `said` in the place of a call; its FILTER goes where the template wants it, else around it."""
    places = [one for one in said.find_all(exp.Column) if one.name == "_filter"]
    outer = node.parent if isinstance(node.parent, exp.Filter) and node.arg_key == "this" else None
    condition = exp.true() if outer is None else outer.expression.this
    for each in places:
        each.replace(exp.Paren(this=condition.copy()))
    (outer if outer is not None and places else node).replace(said)


def seconds(length: Any) -> Any:
    """Return how many seconds an interval is, as an expression; raises QueryError where it is hidden in a column."""
    if isinstance(length, exp.Interval):
        return exp.Literal.number(int(length.this.name) * UNIT_S[length.unit.name.upper().rstrip("S")])
    for node in length.walk():
        if "seconds" in node.meta:
            return node.meta["seconds"]
    raise QueryError(f"the length {length.sql()!r} cannot be translated: expected an interval or to_seconds(...)")


def _time_bucket(arguments: list[Any], template: str, engine: str) -> Any:
    origin = exp.Literal.number(ORIGIN_US)
    if len(arguments) > 2:
        micros = {CLICKHOUSE: "toUnixTimestamp64Micro(_1)", SPARK: "unix_micros(_1)"}[engine]
        origin = filled(micros, engine, arguments[2])
    return filled(template, engine, *arguments, _origin=origin, _seconds=seconds(arguments[0]))


def _to_seconds(arguments: list[Any], template: str, engine: str) -> Any:
    length = filled(template, engine, *arguments)
    length.meta["seconds"] = exp.Paren(this=arguments[0].copy())
    return length


def _quantile(arguments: list[Any], template: str, engine: str) -> Any:
    value, ranks = arguments
    ranks = ranks.this if isinstance(ranks, exp.Cast) else ranks
    if engine == SPARK:
        return filled(template, engine, value, ranks)
    listed = [rank.copy() for rank in ranks.expressions] if isinstance(ranks, exp.Array) else [ranks.copy()]
    name = "quantilesExactInclusive" if isinstance(ranks, exp.Array) else "quantileExactInclusive"
    return exp.ParameterizedAgg(this=name, expressions=listed, params=[value.copy()])


def _strftime(arguments: list[Any], template: str, engine: str) -> Any:
    moment, form = arguments
    text = form.name
    for old, new in FORMS[engine].items():
        text = text.replace(old, new)
    return filled(template, engine, moment, exp.Literal.string(text))


def _date_trunc(arguments: list[Any], template: str, engine: str) -> Any:
    return filled(template, engine, _truncated=exp.Anonymous(this="date_trunc", expressions=arguments))


def _concat_ws(arguments: list[Any], template: str, engine: str) -> Any:
    return filled(template, engine, arguments[0], _listed=exp.Array(expressions=arguments[1:]))


def _format(arguments: list[Any], template: str, engine: str) -> Any:
    """Say DuckDB's `format` piece by piece: text, {} and {:.1f}, where ties go to the even digit."""
    if _PIECE.sub("", arguments[0].name):
        raise QueryError(f"the form {arguments[0].name!r} cannot be translated: expected text, {{}} and {{:.1f}}")
    pieces: list[Any] = []
    values = iter(arguments[1:])
    for text, digits in _PIECE.findall(arguments[0].name):
        if text:
            pieces.append(exp.Literal.string(text.replace("{{", "{").replace("}}", "}")))
        elif digits:
            form = {"_form": exp.Literal.string(f"%.{digits}f"), "_digits": exp.Literal.number(digits)}
            pieces.append(filled(template, engine, next(values), **form))
        else:
            pieces.append(filled("CAST(_1 AS String)", engine, next(values)))
    return exp.Anonymous(this="concat", expressions=pieces)


def _to_json(arguments: list[Any], template: str, engine: str) -> Any:
    """Say an object as text, one member after the other; of anything else what the engine makes of it."""
    (value,) = arguments
    if not isinstance(value, exp.Struct):
        return value if "json" in value.meta else filled(template, engine, value)
    pieces: list[Any] = []
    for place, member in enumerate(value.expressions):
        key = exp.Literal.string(f"{',' if place else '{'}{json.dumps(member.this.name)}:")
        pieces += [key, _to_json([member.expression], template, engine)]
    return _json(exp.Anonymous(this="concat", expressions=[*pieces, exp.Literal.string("}")]))


def _json_listed(arguments: list[Any], template: str, engine: str) -> Any:
    return _json(filled(template, engine, *arguments))


def _json(text: Any) -> Any:
    text.meta["json"] = True
    return text


SPECIAL: Final[Mapping[str, Callable[[list[Any], str, str], Any]]] = {
    "time_bucket": _time_bucket,
    "to_seconds": _to_seconds,
    "quantile_cont": _quantile,
    "strftime": _strftime,
    "range": _range,
    "date_trunc": _date_trunc,
    "concat_ws": _concat_ws,
    "format": _format,
    "to_json": _to_json,
    "json_listed": _json_listed,
}
