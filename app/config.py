"""Settings from `./tailbudget.toml`: one table a command, keys named as the command's options."""

import tomllib
from pathlib import Path
from typing import Any

import click

from tailbudget.instrument.errors import UserError

FILE = Path("tailbudget.toml")


def defaults(group: click.Group, file: Path = FILE) -> dict[str, dict[str, Any]]:
    """Return the file's settings as click's default map, empty without a file.

    Raises UserError for text that is no TOML, and for a table or key that no command has.
    """
    if not file.exists():
        return {}
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: {error}") from error
    for name, values in tables.items():
        _check(file, group, name, values)
    return tables


def _check(file: Path, group: click.Group, name: str, values: object) -> None:
    command = group.commands.get(name)
    if command is None or not isinstance(values, dict):
        tables = ", ".join(f"[{known}]" for known in group.commands)
        raise UserError(f"{file}: unknown table [{name}]: expected one of {tables}")
    allowed = [str(parameter.name) for parameter in command.params if isinstance(parameter, click.Option)]
    for key in values:
        if key not in allowed:
            raise UserError(f"{file}: unknown key {key!r} in [{name}]: expected one of {', '.join(allowed)}")
