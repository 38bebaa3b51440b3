"""The `.sql` files of this folder by name, checked and loaded once."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pyarrow as pa

from .reader import Reader

FOLDER = Path(__file__).parent / "sql"


@cache
def sql(name: str) -> str:
    """Return the text of `sql/<name>.sql`; raises FileNotFoundError, naming the folder, for any other name."""
    path = FOLDER / f"{name}.sql"
    if not path.is_file():
        raise FileNotFoundError(f"no question {name!r} in {FOLDER}: expected one of {', '.join(names())}")
    return path.read_text(encoding="utf-8")


def names() -> tuple[str, ...]:
    """Return the names of all questions, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.sql")))


def ask(reader: Reader, name: str, params: Mapping[str, object] = {}) -> pa.Table:
    """Return the answer of the question `name`; raises QueryError as `Reader.query` does."""
    return reader.query(sql(name), params)
