"""The schema's macros and views put in the place of their names, since other engines have none of them."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from sqlglot import exp

from tailbudget.analytics.reader import NotAnsweredError, QueryError

from ..land.schema import SCHEMA, VIEWS, statements
from .words import parse, words

#: More than any question has.
MOST: Final = 500
_MACRO: Final = re.compile(r"create (?:or replace )?macro (\w+)\((.*?)\) as\s+(table\s+)?(.*);", re.DOTALL)
_VIEW: Final = re.compile(r"create (?:or replace )?view (\w+) as\s+(.*);", re.DOTALL)


@dataclass(frozen=True)
class Macro:
    """A macro or view of the schema: its parameters with their defaults, and what stands for it."""

    parameters: tuple[tuple[str, str | None], ...]
    body: str
    table: bool


@cache
def macros() -> Mapping[str, Macro]:
    """Return the schema's macros and the views that stand on tables, by name."""
    found: dict[str, Macro] = {}
    for statement in [*statements(SCHEMA), *(text for file in VIEWS for text in statements(file))]:
        if match := _MACRO.match(statement):
            name, declared, table, body = match.groups()
            split = [part.partition(":=") for part in declared.split(",") if part.strip()]
            parameters = tuple((left.strip(), right.strip() or None) for left, _, right in split)
            found[name] = Macro(parameters, body.strip(), bool(table))
        elif (match := _VIEW.match(statement)) and not match[2].strip().endswith("_open"):
            found[match[1]] = Macro((), match[2].strip(), table=True)
    return found


@cache
def refused() -> Mapping[tuple[str, str], str]:
    """Return why an engine does not answer what stands on a relation or macro, by (engine, relation)."""
    with Path(__file__).with_name("refused.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {(engine, row["relation"]): row["reason"] for row in rows for engine in row["engines"].split()}


def expanded(tree: Any, engine: str) -> Any:
    """Return the question over tables alone; raises QueryError, by name, for what the engine does not answer."""
    if any(str(join.args.get("method") or "").upper() == "ASOF" for join in tree.find_all(exp.Join)):
        refuse("asof", engine)
    own = {cte.alias for cte in tree.find_all(exp.CTE)}
    for table in tree.find_all(exp.Table):
        if _called(table) or table.name not in own:
            refuse(_called(table) or table.name, engine)
    for number in range(MOST):
        node = next((node for node in tree.walk() if _macro(node, own)), None)
        if node is None:
            return tree
        name = _macro(node, own)
        refuse(name, engine)
        body = _bound(macros()[name], node.this if isinstance(node, exp.Table) else node)
        own |= _apart(body, number)
        if isinstance(node, exp.Table):
            alias = node.args.get("alias") or exp.TableAlias(this=exp.to_identifier(name))
            node.replace(exp.Subquery(this=body, alias=alias.copy()))
        else:
            node.replace(exp.Paren(this=body))
    raise QueryError("the question's macros call each other without an end")


def refuse(relation: str, engine: str) -> None:
    """Raise NotAnsweredError for a relation, macro or question that the engine does not answer."""
    if reason := refused().get((engine, relation)):
        raise NotAnsweredError(f"{engine} does not answer {relation}: {reason}", "ask the collector that it came from")


def _called(table: Any) -> str:
    """Return the name of a function in FROM, empty for a table."""
    return str(table.this.name) if isinstance(table.this, exp.Anonymous) else ""


def _macro(node: Any, own: set[str]) -> str:
    """Return the macro or view that a node names, empty for none; `own` are the question's own relations."""
    if isinstance(node, exp.Table):
        name = _called(node) or ("" if node.name in own else node.name)
        return name if name in macros() and macros()[name].table else ""
    if isinstance(node, exp.Anonymous) and not isinstance(node.parent, exp.Table) and node.name not in words():
        return str(node.name) if node.name in macros() and not macros()[node.name].table else ""
    return ""


def _apart(body: Any, number: int) -> set[str]:
    """Give the relations of a macro's body names that no other has, and return them."""
    names = {cte.alias: f"{cte.alias}_{number}" for cte in body.find_all(exp.CTE)}
    for cte in body.find_all(exp.CTE):
        cte.args["alias"].set("this", exp.to_identifier(names[cte.alias]))
    for table in body.find_all(exp.Table):
        if not _called(table) and table.name in names:
            if not table.args.get("alias"):
                table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
            table.set("this", exp.to_identifier(names[table.name]))
    return set(names.values())


def _bound(macro: Macro, call: Any) -> Any:
    """Return the macro's body with the call's arguments in it."""
    body = parse(macro.body)
    given = {name: parse(f"select {default}").selects[0] for name, default in macro.parameters if default}
    arguments = call.expressions if isinstance(call, exp.Anonymous) else []
    placed = [one for one in arguments if not isinstance(one, exp.PropertyEQ)]
    given |= dict(zip((name for name, _ in macro.parameters), placed, strict=False))
    given |= {one.this.name: one.expression for one in arguments if isinstance(one, exp.PropertyEQ)}
    for column in list(body.find_all(exp.Column)):
        if not column.table and column.name in given:
            value = given[column.name].copy()
            column.replace(exp.Paren(this=value) if isinstance(value, exp.Binary) else value)
    return body
