"""Settings from `./tailbudget.toml`: one table a command, keys named as the command's options."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from tailbudget.instrument.errors import UserError

FILE = Path("tailbudget.toml")
#: click's own values of these types are numbers; of every other type texts.
NUMBERS: Final = (click.types.IntParamType, click.types.FloatParamType)

Options = Mapping[str, click.Option]


def defaults(group: click.Group, file: Path = FILE) -> dict[str, dict[str, Any]]:
    """Return the file's settings as click's default map, empty without a file.

    A key may be written as the option is, `step-delay`, or `step_delay`. Raises UserError for a file that cannot be
    read or is no TOML, for a table or key that no command has, and for a value that its option does not take.
    """
    if not file.exists():
        return {}
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): expected a file of settings in TOML") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not in UTF-8, as TOML must be: byte {error.start} is no text") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: {error}") from error
    return {name: _settings(file, group, name, values) for name, values in tables.items()}


def _settings(file: Path, group: click.Group, name: str, values: object) -> dict[str, Any]:
    command = group.commands.get(name)
    if command is None or not isinstance(values, dict):
        tables = ", ".join(f"[{known}]" for known in group.commands)
        raise UserError(f"{file}: unknown table [{name}]: expected one of {tables}")
    options = {str(option.name): option for option in command.params if isinstance(option, click.Option)}
    named = {long: option for option in options.values() if not _chooses(option) for long in _written(option)}
    settings = {}
    for key, value in values.items():
        option = options.get(key) or named.get(key.replace("_", "-"))
        if option is None:
            known = f"expected one of {', '.join(options)}" if options else "it has none"
            raise UserError(f"{file}: unknown key {key!r} in [{name}]: {known}")
        if wrong := _wrong(command, option, value):
            raise UserError(f"{file}: {key} in [{name}] is {value!r}: {wrong}")
        settings[str(option.name)] = value
    return settings


def _written(option: click.Option) -> list[str]:
    return [text.removeprefix("--") for text in option.opts if text.startswith("--")]


def _chooses(option: click.Option) -> bool:
    """Whether the option is one of several flags that choose the value of one setting."""
    return option.is_flag and not option.is_bool_flag


def _wrong(command: click.Command, option: click.Option, value: object) -> str:
    """Return what was expected, empty when the option takes the value."""
    if _chooses(option):
        others = (other for other in command.params if isinstance(other, click.Option) and other.name == option.name)
        choices = [str(other.flag_value) for other in others]
        return "" if value in choices else f"expected one of {', '.join(choices)}"
    if option.is_flag:
        return "" if isinstance(value, bool) else "expected true or false"
    if option.multiple:
        return (
            "" if isinstance(value, list) and all(isinstance(one, str) for one in value) else "expected a list of texts"
        )
    number = isinstance(option.type, NUMBERS)
    if isinstance(value, bool) or not isinstance(value, (str, int, float) if number else str):
        return f"expected a {'number' if number else 'text in quotes'}"
    try:
        option.type.convert(str(value), option, None)
    except click.UsageError as error:
        return error.message
    return ""
