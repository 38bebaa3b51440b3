"""Every answer has a form: nested values keep theirs, and nothing that DuckDB can say breaks a table, JSON or CSV."""

import json

import duckdb
import pyarrow as pa
import pytest

from tailbudget.analytics.formats import Answer, answer
from tailbudget.app.text import to_text


def _answer(sql: str) -> Answer:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        return answer(connection, sql)


def _table(sql: str) -> list[str]:
    return to_text(pa.ipc.open_stream(_answer(sql).arrow()).read_all()).splitlines()


def test_columns_of_one_name_are_told_apart() -> None:
    sql = "select 1 as a, 2 as a, 'x' as a"
    assert [line.split() for line in _table(sql)] == [
        ["a", "a_1", "a_2"],
        ["-", "---", "---"],
        ["1", "2", "x"],
        ["1", "row"],
    ]
    assert json.loads(_answer(sql).json()) == [{"a": 1, "a_1": 2, "a_2": "x"}]


UNREACHED = [
    "'infinity'::timestamp",
    "'-infinity'::timestamp",
    "'infinity'::timestamp_s",
    "'infinity'::timestamp_ms",
    "'infinity'::timestamp_ns",
    "'infinity'::timestamptz",
    "'infinity'::date",
    "'0044-03-15 (BC)'::date",
    "'290000-01-01'::timestamp",
]


@pytest.mark.parametrize("value", UNREACHED)
def test_an_instant_beyond_the_calendar_is_null_in_every_form(value: str) -> None:
    sql = f"select {value} as t, 1 as n"
    assert [line.split() for line in _table(sql)][2] == ["1"]
    assert json.loads(_answer(sql).json()) == [{"t": None, "n": 1}]
    assert _answer(sql).csv() == b"t,n\n,1\n"


@pytest.mark.parametrize("value", ["'infinity'::timestamp", "'infinity'::timestamptz", "'infinity'::date"])
def test_an_instant_beyond_the_calendar_is_null_inside_of_other_values_too(value: str) -> None:
    sql = f"select [{value}] as l, {{'x': {value}}} as s, map {{'k': {value}}} as m, array_value({value}) as a"
    assert json.loads(_answer(sql).json()) == [{"l": [None], "s": {"x": None}, "m": {"k": None}, "a": [None]}]
    assert "[None]" in _table(sql)[2]


def test_instants_within_the_calendar_keep_their_value_in_every_unit() -> None:
    said = "2020-01-02 03:04:05"
    kinds = ("timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns", "timestamptz")
    sql = "select " + ", ".join(f"'{said}'::{kind} as {kind}_" for kind in kinds)
    assert json.loads(_answer(sql).json()) == [{f"{kind}_": "2020-01-02T03:04:05.000000Z" for kind in kinds}]
    assert _table(sql)[2].split("  ")[0] == said
    nested = f"select ['{said}'::timestamp_s, null] as l, {{'d': '2020-01-02'::date}} as s"
    assert json.loads(_answer(nested).json()) == [
        {"l": ["2020-01-02T03:04:05.000000Z", None], "s": {"d": "2020-01-02"}}
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[]", []),
        ("[null]", [None]),
        ("[[]]", [[]]),
        ("{'x': null}", {"x": None}),
        ("""{'we"ird': [null]}""", {'we"ird': [None]}),
        ("map {}", {}),
        ("map {'k': null}", {"k": None}),
        ("[null, interval 1 day]::interval[2]", [None, "1 day"]),
        ("{'d': 1.50::decimal(9, 2), 'i': interval 2 day}", {"d": 1.5, "i": "2 days"}),
        ("""{'j': '[1]'::json, 'n': null}""", {"j": [1], "n": None}),
        ("row(1, 'x')", {"element1": 1, "element2": "x"}),
        ("row(1, interval 1 day)", "(1, 1 day)"),
        ("null", None),
    ],
)
def test_lists_stay_arrays_and_structs_objects(value: str, expected: object) -> None:
    assert json.loads(_answer(f"select {value} as x").json()) == [{"x": expected}]
