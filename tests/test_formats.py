"""Every answer has a form: nested values keep theirs, and nothing that DuckDB can say breaks a table, JSON or CSV."""

import json
from types import SimpleNamespace

import duckdb
import pyarrow as pa
import pytest

from tailbudget.analytics.formats import PLANS_ONCE, Answer, TooManyRowsError, _run, answer, stream
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


#: What a question may be, and what it may return: with values, of several vectors, of types with and without a form.
PARSED: list[tuple[str, dict[str, object]]] = [
    ("select i, $name || i as s, i % 3 = 0 as b from range($n) t(i)", {"n": 5_000, "name": "x"}),
    ("select 1 as a, 'x' as a, 1.50::decimal(9, 2) as d, '{\"k\": [1]}'::json as j, now() is null as t", {}),
    ("select interval 1 day as i, null as n, {'i': [interval 2 day]} as s, $x as x", {"x": None}),
    ("select (i % 3)::varchar::enum('0', '1', '2') as e from range(10) t(i)", {}),
    ("select 1 as a where false", {}),
    ("describe select 1 as a; -- and nothing more", {}),
    ("explain select 1", {}),
]


@pytest.mark.parametrize(("sql", "params"), PARSED)
def test_a_parsed_question_is_answered_as_its_text_is(sql: str, params: dict[str, object]) -> None:
    with duckdb.connect() as connection:
        (parsed,) = connection.extract_statements(sql)
        for form in (Answer.arrow, Answer.json, Answer.csv):
            assert form(stream(connection, parsed, params)) == form(stream(connection, sql, params))


FAILING: list[tuple[str, dict[str, object]]] = [
    ("select nope", {}),
    ("from nope", {}),
    ("select $x + 'a'", {"x": 1}),
    ("select $y", {}),
    ("select 1", {"x": 1}),
    ("select case i when 9000 then error('late') end from range(9999) t(i)", {}),
]


@pytest.mark.parametrize(("sql", "params"), FAILING)
def test_a_parsed_question_fails_as_its_text_does(sql: str, params: dict[str, object]) -> None:
    said = set()
    with duckdb.connect() as connection:
        (parsed,) = connection.extract_statements(sql)
        for question in (parsed, sql):
            with pytest.raises(duckdb.Error) as error:
                stream(connection, question, params).arrow()
            said.add((type(error.value), str(error.value).partition("\n\nLINE")[0]))
    assert len(said) == 1


def test_a_parsed_question_is_planned_once_and_streams() -> None:
    with duckdb.connect() as connection:
        (parsed,) = connection.extract_statements("from range(1_000_000_000_000)")
        assert not PLANS_ONCE or _run(connection, parsed, {}, max_rows=None) is not None
        with pytest.raises(TooManyRowsError):
            stream(connection, parsed, max_rows=100_000).arrow()


def test_what_fails_midway_keeps_its_error_whatever_the_sink_says_then() -> None:
    taken = []

    def take(data: bytes) -> None:
        taken.append(data)
        raise OSError("the disk is full")

    with duckdb.connect() as connection:
        with pytest.raises(TooManyRowsError):
            stream(connection, "from range(9_000)", max_rows=5_000).write_arrow(SimpleNamespace(write=take))
        assert not taken
        with pytest.raises(OSError, match="full"):
            stream(connection, "from range(9_000)").write_arrow(SimpleNamespace(write=take))
        assert len(taken) == 1
