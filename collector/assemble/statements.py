"""Runs the `.sql` files of this folder, each parsed once."""

from functools import cache
from pathlib import Path

import duckdb


@cache
def text_of(name: str) -> str:
    """Return the text of `<name>.sql`."""
    if name == "member_sealed":  # the same from the view, which reads sealed files too
        return text_of("member").replace("from spans_open", "from spans")
    return (Path(__file__).parent / f"{name}.sql").read_text(encoding="utf-8")


class Statements:
    """The files of this folder on one connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._parsed: dict[str, list[duckdb.Statement]] = {}  # parsing anew was a seventh of a small tick

    def run(self, name: str, **params: object) -> int:
        """Run the statements of one file, each with the parameters that it names; return the rows of the last."""
        rows = 0
        if name not in self._parsed:
            self._parsed[name] = self._connection.extract_statements(text_of(name))
        for statement in self._parsed[name]:
            named = {key: params[key] for key in statement.named_parameters}
            counted = self._connection.execute(statement, named).fetchall()
            rows = int(counted[0][0]) if counted else 0
        return rows

    def row(self, name: str) -> dict[str, int]:
        """Return what the only row of a question says, by column."""
        asked = self._connection.execute(text_of(name))
        columns = [str(column[0]) for column in asked.description]
        (row,) = asked.fetchall()
        return dict(zip(columns, map(int, row), strict=True))
