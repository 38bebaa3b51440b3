"""Saved questions of the SQL page: those that come with it, and those that viewers keep in one file of this machine."""

import json
import os
import tempfile
from pathlib import Path
from typing import Final

from tailbudget.instrument.errors import UserError

FOLDER: Final = Path(__file__).resolve().parents[1] / "saved"
#: What the page asks before anything is typed.
FIRST: Final = "slowest_routes.sql"
#: Names are shown in a list.
LONGEST_NAME: Final = 80


def file() -> Path:
    """Return where viewers' questions are kept: `saved-queries.json` in $XDG_DATA_HOME/tailbudget."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "tailbudget" / "saved-queries.json"


def questions() -> dict[str, str]:
    """Return SQL by name: what viewers saved, then what comes with the page. A file that is broken counts as empty."""
    return {**_kept(), **dict(_text(path) for path in sorted(FOLDER.glob("*.sql")))}


def first() -> str:
    """Return the SQL that the page begins with."""
    return _text(FOLDER / FIRST)[1]


def save(name: str, sql: str) -> None:
    """Keep `sql` under `name`, in place of what had it. Raises UserError for a name or a file that cannot be used."""
    name = name.strip()
    if not name or len(name) > LONGEST_NAME:
        raise UserError(f"{name[:20]!r}: expected a name of 1 to {LONGEST_NAME} characters")
    _write({**_kept(), name: sql})


def delete(name: str) -> None:
    """Forget the question that a viewer saved under `name`, if there is one. Raises UserError as `save` does."""
    _write({other: sql for other, sql in _kept().items() if other != name})


def is_own(name: str) -> bool:
    """Return whether a viewer saved it."""
    return name in _kept()


def _text(path: Path) -> tuple[str, str]:
    """Return the name and the SQL of a file."""
    name, _, sql = path.read_text(encoding="utf-8").partition("\n")
    return name.removeprefix("-- "), sql.strip()


def _kept() -> dict[str, str]:
    try:
        found = json.loads(file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(sql) for name, sql in found.items()} if isinstance(found, dict) else {}


def _write(kept: dict[str, str]) -> None:
    target = file()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside it, then in its place: a reader sees the old file or the new one.
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as made:
            json.dump(kept, made, indent=1, ensure_ascii=False)
        Path(made.name).replace(target)
    except OSError as error:
        raise UserError(
            f"cannot save to {str(target)!r}: {error.strerror}; set XDG_DATA_HOME to a folder of yours"
        ) from error
