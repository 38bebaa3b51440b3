"""The `.sql` files of this folder by name, checked and loaded once."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pyarrow as pa

from .reader import Reader

FOLDER = Path(__file__).parent / "sql"
STEPS = re.compile(r"^--: the steps of (\w+) up to (\w+)$", re.MULTILINE)


@cache
def sql(name: str) -> str:
    """Return the text of `sql/<name>.sql`; raises FileNotFoundError, naming the folder, for any other name.

    Where it says `--: the steps of other up to step`, those of `sql/other.sql` stand, so that both count alike.
    """
    path = FOLDER / f"{name}.sql"
    if not path.is_file():
        raise FileNotFoundError(f"no question {name!r} in {FOLDER}: expected one of {', '.join(names())}")
    return STEPS.sub(lambda found: _steps(*found.groups()), path.read_text(encoding="utf-8"))


def _steps(name: str, last: str) -> str:
    """Return the common table expressions of a question from its first to `last`, each with its comma."""
    text = sql(name).partition("\nwith ")[2]
    begin = re.search(rf"^{last} as ", text, re.MULTILINE)
    if begin is None:
        raise ValueError(f"question {name!r} has no step {last!r}: expected one that begins a line")
    return text[: text.index("\n),", begin.start())] + "\n),"


def names() -> tuple[str, ...]:
    """Return the names of all questions, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.sql")))


def ask(reader: Reader, name: str, params: Mapping[str, object] = {}) -> pa.Table:
    """Return the answer of the question `name`; raises QueryError as `Reader.query` does."""
    return reader.query(sql(name), params)
