"""The command explains itself, and every failure is one line with a way out."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from tailbudget.app import config
from tailbudget.app.cli import cli, run
from tailbudget.instrument.errors import UserError


def _commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
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


def test_an_unknown_key_in_the_settings_file_names_the_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "tailbudget.toml"
    file.write_text("[collector]\nhtpp = 4318\n")
    with pytest.raises(UserError, match=r"unknown key 'htpp' in \[collector\].*http"):
        config.defaults(cli, file)


def test_a_settings_file_gives_a_command_its_defaults(tmp_path: Path) -> None:
    file = tmp_path / "tailbudget.toml"
    file.write_text("[collector]\nhttp = 5318\n")
    assert config.defaults(cli, file) == {"collector": {"http": 5318}}
