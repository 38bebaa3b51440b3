"""What a span is: the tables in `rules/` turned into the one SELECT that gives landed spans their columns.

`rules.csv` says what a span is taken for (first match wins), `aliases.csv` which attributes fill a column (first
present wins), `first_token.csv` which signals tell the first chunk and token. A new dialect is new rows.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from tailbudget.instrument.vocabulary import BUDGET_PREFIX, STAGES, STREAM_END, convert

RULES: Final = Path(__file__).parent / "rules"
#: Columns of the span itself that a condition may name; every other name is an attribute.
OWN: Final = ("name", "kind", "scope")
#: Names that stand for a list of values in `rules.csv`.
LISTS: Final = {
    "$stages": STAGES,
    "$vector_stores": (
        "chroma", "chromadb", "lancedb", "marqo", "milvus", "pgvector", "pinecone", "qdrant", "weaviate", "vespa",
    ),
}  # fmt: skip
BUDGETS: Final = ("total", "ttft", "usable", "model", *STAGES)
#: An SDK keeps the last 128 events of a span: with that many the first token may be among those it dropped.
KEPT_EVENTS: Final = 128

#: SQL of a value by its type in the tables; `{0}` is the attribute's column, always text.
CASTS: Final = {
    "text": "nullif({0}, '')",
    "bool": "try_cast({0} as boolean)",
    "flag": "case when {0} is not null then coalesce(try_cast({0} as boolean), true) end",
    "int": "try_cast({0} as bigint)",
    "s": "case when try_cast({0} as double) >= 0 then try_cast(round(try_cast({0} as double) * 1e9) as bigint) end",
    "ms": "case when try_cast({0} as double) >= 0 then try_cast(round(try_cast({0} as double) * 1e6) as bigint) end",
    "time": "nullif(greatest(epoch_ns(try_cast(trim({0}, '\"') as timestamptz)) - b.start_ns, -1), -1)",
}
#: SQL around an attribute that `name(attribute)` asks for in `aliases.csv`.
FUNCTIONS: Final = {
    # the first of a JSON list, of a list as Python writes it, or of words with commas between
    "first": "case when {0} like '[%' then try(json_extract_string({0}, '$[0]')) "
    "else nullif(regexp_extract({0}, '[A-Za-z_][A-Za-z0-9_.-]*'), '') end",
    "model": "case when {0} like '{{%' then coalesce(try(json_extract_string({0}, '$.model')), "
    "try(json_extract_string({0}, '$.model_name'))) end",
    "streamed": "case when {0} like '{{%' and try(json_extract_string({0}, '$.stream')) = 'true' then 'true' end",
    "of_sglang": "case when {1} = 'sglang::request' then {0} end",
    "of_log": "case when {1} = 'log' then {0} end",
    "of_genkit": "case when {1} = 'model' then {0} end",
    "usage_in": "case when {0} like '{{%' then coalesce(try(json_extract_string({0}, '$.input')), "
    "try(json_extract_string({0}, '$.prompt_tokens')), try(json_extract_string({0}, '$.input_tokens'))) end",
    "usage_out": "case when {0} like '{{%' then coalesce(try(json_extract_string({0}, '$.output')), "
    "try(json_extract_string({0}, '$.completion_tokens')), try(json_extract_string({0}, '$.output_tokens'))) end",
    "usage_cached": "case when {0} like '{{%' then coalesce("
    "try(json_extract_string({0}, '$.prompt_tokens_details.cached_tokens')), "
    "try(json_extract_string({0}, '$.input_cached_tokens')), "
    "try(json_extract_string({0}, '$.cache_read_input_tokens'))) end",
    # of JSON, or of a dictionary as Python writes it
    "cache_read": "nullif(regexp_extract({0}, 'cache_read[^0-9a-z_]+([0-9]+)', 1), '')",
    "most": "case when {0} like '{{%' then coalesce(try(json_extract_string({0}, '$.max_completion_tokens')), "
    "try(json_extract_string({0}, '$.max_tokens')), try(json_extract_string({0}, '$.max_output_tokens'))) end",
    "host": "nullif(regexp_extract({0}, '^[a-z]+://([^/?#]+)', 1), '')",
    "address": "case when {1} is null or ends_with({0}, ':' || {1}) then {0} else {0} || ':' || {1} end",
}
#: Attributes that a function above reads beside the one it is given, as `{1}`.
READ_BESIDE: Final = {
    "address": ("server.port",),
    "of_sglang": ("module",),
    "of_log": ("logfire.span_type",),
    "of_genkit": ("genkit:metadata:subtype",),
}


Keys = frozenset[str]
ABSENT: Final = "null::varchar"


@dataclass(frozen=True, slots=True)
class Given:
    """What the spans to be recognised have: the attributes with a column, and whether any has events."""

    keys: Keys
    events: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of `rules.csv`."""

    name: str
    role: str
    stage: str
    when: str


def rules() -> tuple[Rule, ...]:
    """Return the rules in the order in which they are tried."""
    return tuple(Rule(row["rule"], row["role"], row["stage"], row["when"]) for row in _rows("rules"))


@cache
def _rows(table: str) -> tuple[dict[str, str], ...]:
    with (RULES / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _column(name: str) -> str:
    return f"b.{_quoted(name)}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class Condition:
    """One term of a rule: an attribute that is there, is one of some values, or is like one of some patterns."""

    key: str
    test: str = ""
    values: tuple[str, ...] = ()

    @classmethod
    def parse(cls, term: str) -> "Condition":
        """Read `key`, `key = a|b` or `key ~ pattern|pattern`; letter case does not count."""
        for test in ("=", "~"):
            key, found, values = term.partition(f" {test} ")
            if found:
                listed = LISTS.get(values.strip()) or tuple(values.strip("\r\n").split("|"))
                return cls(key.strip(), test, tuple(value.lower() for value in listed))
        return cls(term.strip())

    def sql(self) -> str:
        """Return the term as SQL over `batch_spans b`."""
        column = _column(self.key)
        if not self.test:
            return f"{column} is not null"
        if self.test == "=":
            return f"lower({column}) in ({', '.join(map(_literal, self.values))})"
        return "(" + " or ".join(f"lower({column}) like {_literal(value)}" for value in self.values) + ")"


def _conditions(when: str) -> tuple[Condition, ...]:
    return tuple(Condition.parse(term) for term in when.split(" & "))


def _match(keys: Keys) -> str:
    """Return the one CASE that every span goes through, giving its role, stage and rule."""
    lines = []
    for rule in rules():
        conditions = _conditions(rule.when)  # which name the attribute of its stage too
        if all(condition.key in keys or condition.key in OWN for condition in conditions):
            when = " and ".join(condition.sql() for condition in conditions)
            lines.append(f"when {when} then {_recognised(rule.role, _stage(rule.stage), rule.name)}")
    none = _recognised("container", "null", "none")
    return f"case {' '.join(lines)} else {none} end" if lines else none


def _recognised(role: str, stage: str, rule: str) -> str:
    return f"{{'role': {_literal(role)}, 'stage': {stage}::varchar, 'rule': {_literal(rule)}}}"


def _stage(stage: str) -> str:
    if not stage:
        return "null"
    return f"lower({_column(stage[1:-1])})" if stage.startswith("{") else _literal(stage)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of `aliases.csv`: an attribute, or a function of one."""

    attribute: str
    function: str = ""

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Read `attribute` or `function(attribute)`."""
        function, found, rest = text.partition("(")
        return cls(rest.removesuffix(")"), function) if found else cls(text)

    def sql(self, keys: Keys) -> str:
        """Return the key's text value as SQL, when of all attributes there are those in `keys`."""
        columns = [_column(key) if key in keys else ABSENT for key in self.attributes()]
        return FUNCTIONS[self.function].format(*columns) if self.function else columns[0]

    def attributes(self) -> tuple[str, ...]:
        """Return the attributes that the value is made of."""
        return (self.attribute, *READ_BESIDE.get(self.function, ()))


def _alias(kind: str, of: tuple[Key, ...], keys: Keys) -> str:
    of = tuple(key for key in of if key.attribute in keys)
    if kind.startswith("sum of ") and of:
        values = [CASTS[kind.removeprefix("sum of ")].format(key.sql(keys)) for key in of]
        present = f"coalesce({', '.join(_column(key.attribute) for key in of)}) is not null"
        return f"case when {present} then {' + '.join(f'coalesce({value}, 0)' for value in values)} end"
    return _first_of(CASTS[kind].format(key.sql(keys)) for key in of)


def _first_of(values: Iterable[str]) -> str:
    values = tuple(values)
    return f"coalesce({', '.join(values)})" if values else "null"


def _aliases() -> dict[str, tuple[str, tuple[Key, ...]]]:
    return {row["column"]: (row["type"], tuple(map(Key.parse, row["keys"].split()))) for row in _rows("aliases")}


def _signals(given: Given, *counts: str, of_chunk: bool = False) -> list[tuple[str, str]]:
    """Return (name, SQL of its nanoseconds since the span's start) of the signals that count so, best first.

    A signal is no first token where its column `unless` holds; with `of_chunk` it is a first chunk nevertheless.
    """
    return [
        (row["signal"], _signal(row | {"unless": ""} if of_chunk else row, given.keys))
        for row in _rows("first_token")
        if row["counts"] in counts and (given.events if row["type"] == "event" else row["signal"] in given.keys)
    ]


def _signal(row: dict[str, str], keys: Keys) -> str:
    if row["type"] == "event":
        value = f"nullif(greatest(e.{_quoted(row['signal'])} - b.start_ns, -1), -1)"
    else:
        value = CASTS[row["type"]].format(_column(row["signal"]))
    unless = _conditions(row["unless"])[0] if row["unless"] else None
    if unless is None or unless.key not in keys.union(OWN):
        return value
    return f"case when not coalesce({unless.sql()}, false) then {value} end"


def _name_of(signals: list[tuple[str, str]]) -> str:
    named = " ".join(f"when {sql} is not null then {_literal(name)}" for name, sql in signals)
    return f"case {named} end" if named else "null"


def _events() -> str:
    """Return a SELECT of one row a span that has events: its exception, its last, each signal, its chunks."""
    signals = [row for row in _rows("first_token") if row["type"] == "event"]
    names = [row["signal"] for row in signals]
    chunks = ", ".join(_literal(row["signal"]) for row in signals if row["counts"] == "chunk")
    first = (
        f"case when count(*) < {KEPT_EVENTS} then min(t_ns) filter (where name = {_literal(name)}) end {_quoted(name)}"
        for name in names
    )
    exception = (
        """arg_max(try(json_extract_string(attrs, '$."exception.type"')), t_ns) filter (where name = 'exception')"""
    )
    return (
        f"select trace_id, span_id, {exception} as exception, "  # noqa: S608 - from our own tables
        f"max(t_ns) filter (where name <> 'exception') as last_t_ns, {', '.join(first)}, "
        f"case when count(*) < {KEPT_EVENTS} then list(t_ns order by t_ns) filter (where name in ({chunks})) end "
        "as chunk_ns from batch_events group by all"
    )


def _budgets(keys: Keys) -> str:
    names = [name for name in BUDGETS if BUDGET_PREFIX + name in keys]
    if not names:
        return "null"
    present = f"coalesce({', '.join(_column(BUDGET_PREFIX + name) for name in names)}) is not null"
    entries = ", ".join(
        f"({_literal(name)}, try_cast({_column(BUDGET_PREFIX + name)} as double) * {convert(1, 's', 'ms')})"
        for name in names
    )
    return f"case when {present} then map_from_entries(list_filter([{entries}], lambda entry: isfinite(entry[2]))) end"


#: SQL of columns that events fill too, where attributes do not; `{0}` is what attributes say.
OF_EVENTS: Final = {
    "error": "coalesce({0}, e.exception)",
    "chunks": "coalesce({0}, len(e.chunk_ns))",
    "max_gap_ns": "coalesce({0}, list_max(list_transform(range(2, len(e.chunk_ns) + 1), "
    "lambda i: e.chunk_ns[i] - e.chunk_ns[i - 1])))",
}


def _stream(given: Given, alias: str, chunk: list[tuple[str, str]]) -> str:
    """Return whether a call streams: as it says, else true where anything tells of a first chunk."""
    values = [_column(STREAM_END)] if STREAM_END in given.keys else []
    values += [sql for _, sql in chunk]
    values += ['e."First Token Stream Event"'] if given.events else []
    evidence = " or ".join(f"{value} is not null" for value in values)
    return f"coalesce({alias}, case when {evidence} then true end)" if evidence else alias


def _canonical(given: Given) -> Iterator[tuple[str, str]]:
    """Yield (column, SQL) of each column that attributes fill, in the order of the table `spans`."""
    token, chunk = _signals(given, "token", "chunk"), _signals(given, "chunk", of_chunk=True)
    special = OF_EVENTS if given.events else {}
    aliases = {column: _alias(*row, given.keys) for column, row in _aliases().items()}
    aliases["stream"] = _stream(given, said := aliases["stream"], chunk)
    streamed = f"({said}) is not false"  # a call that does not stream has no first token
    for column, sql in aliases.items():
        if column == "provider":
            yield "budgets", _budgets(given.keys)
        if column == "usable_ns":
            yield "ttfc_ns", f"case when {streamed} then {_first_of(sql for _, sql in chunk)} end"
            yield "ttft_ns", f"case when {streamed} then {_first_of(sql for _, sql in token)} end"
            yield "ttft_source", f"case when {streamed} then {_name_of(token)} end"
        yield column, special[column].format(sql) if column in special else sql
    yield "last_event_ns", "e.last_t_ns - b.start_ns" if given.events else "null"


@lru_cache(maxsize=256)
def span_select(keys: Keys | None = None, *, events: bool = True) -> str:
    """Return a SELECT over `batch_spans` and `batch_events` that yields the columns of the table `spans`, in order.

    `keys` are the promoted keys that `batch_spans` has, by default all of PROMOTED; without `events`, `batch_events` is
    not read. What cannot be there is left out: planning all of it takes 40 ms, a dozen keys without events 10.
    """
    given = Given(frozenset(PROMOTED) if keys is None else keys, events)
    canonical = ",\n    ".join(f"{sql} as {column}" for column, sql in _canonical(given))
    joined = f"left join ({_events()}) e using (trace_id, span_id)" if events else ""
    return f"""select
    b.trace_id, b.span_id, b.parent_span_id, b.name, b.kind,
    make_timestamptz(b.start_ns // 1000) as started, b.start_ns, b.end_ns, b.end_ns - b.start_ns as duration_ns,
    b.service, b.scope, b.status, b.status_message, b.resource_id,
    b.hit.role as role, b.hit.stage as stage, b.hit.rule as rule,
    {canonical},
    b.attrs::json as attrs
from (select b.*, {_match(given.keys)} as hit from batch_spans b) b
{joined}"""  # noqa: S608 - from our own tables


def _promoted() -> Iterator[str]:
    for rule in rules():
        yield from (condition.key for condition in _conditions(rule.when))
    for _, keys in _aliases().values():
        for key in keys:
            yield from key.attributes()
    for row in _rows("first_token"):
        if row["type"] != "event":
            yield row["signal"]
        yield from (condition.key for condition in _conditions(row["unless"]) if row["unless"])
    yield from (BUDGET_PREFIX + name for name in BUDGETS)


#: Attributes that the decoder puts into text columns of `batch_spans`, named like the attribute.
PROMOTED: Final[tuple[str, ...]] = tuple(sorted(set(_promoted()) - set(OWN)))
