"""The command explains itself, and every failure is one line with a way out."""

import subprocess
import sys

import click
import pytest

from tailbudget.app.cli import cli, run


def _commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    found = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= _commands(command, f"{prefix}{name} ")
        else:
            found[prefix + name] = command
    return found


COMMANDS = _commands(cli)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    text = COMMANDS[name].help or ""
    assert f"Example: tailbudget {name}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    for option in COMMANDS[name].params:
        assert not isinstance(option, click.Option) or option.help, option.name


def test_the_command_starts_as_a_console_script() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tailbudget.app.main", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("tailbudget, version 0.")


def test_an_unknown_command_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dashbord"]) == 2
    assert "No such command 'dashbord'" in capsys.readouterr().err
