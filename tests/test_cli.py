"""The command explains itself, and every failure is one line with a way out."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

from tailbudget.app import config
from tailbudget.app.cli import cli, run
from tailbudget.collector.settings import CollectorSettings
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


def test_the_options_of_the_collector_set_its_settings_and_have_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TAILBUDGET_")]:
        monkeypatch.delenv(name)
    given = COMMANDS["collector"].make_context("collector", []).params
    defaults = {field.name: field.default for field in fields(CollectorSettings)}
    same = given.keys() & defaults.keys() - {"data", "sag", "prices"}
    assert {name: given[name] for name in same} == {name: defaults[name] for name in same}
    sizes = {"max_body_bytes", "max_spans_per_body", "max_bodies", "bodies_bytes", "journal_bytes", "free_bytes"}
    assert sizes | {"memory_limit"} <= same
    told = ["--max-journal", "2GiB", "--max-body", "1.5MB", "--memory", "1GB"]
    given = COMMANDS["collector"].make_context("collector", told).params
    assert (given["journal_bytes"], given["max_body_bytes"], given["memory_limit"]) == (2 * 2**30, 1_500_000, "1GB")


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
    file.write_text("[collector]\nhttp = 5318\ncors-origin = ['https://a.example', 'https://b.example']\n")
    wanted = {"http_port": 5318, "cors_origins": ["https://a.example", "https://b.example"]}
    assert config.defaults(cli, file) == {"collector": wanted}


@pytest.mark.parametrize("key", ["step-delay", "step_delay"])
def test_a_key_may_be_written_as_its_option(tmp_path: Path, key: str) -> None:
    file = tmp_path / "tailbudget.toml"
    file.write_text(f"[runtime]\n{key} = 2.5\n[doctor]\njson = true\n[sql]\nform = 'csv'\n")
    assert config.defaults(cli, file) == {
        "runtime": {"step_delay": 2.5},
        "doctor": {"as_json": True},
        "sql": {"form": "csv"},
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[sql]\nform = "xml"', "form in [sql] is 'xml': expected one of json, csv, table"),
        ('[collector]\ndata = ["a"]', "data in [collector] is ['a']: expected a text in quotes"),
        ("[collector]\ndata = 5", "data in [collector] is 5: expected a text in quotes"),
        ("[collector]\nhttp = true", "http in [collector] is True: expected a number"),
        ("[collector]\nhttp = 4318.5", "http in [collector] is 4318.5: '4318.5' is not a valid integer"),
        ("[collector]\nhttp = 70000", "http in [collector] is 70000: 70000 is not in the range"),
        ('[collector]\ncors-origin = "*"', "cors-origin in [collector] is '*': expected a list of texts"),
        ("[collector]\ncors-origin = [1]", "cors-origin in [collector] is [1]: expected a list of texts"),
        ('[runtime]\ncontrol = "yes"', "control in [runtime] is 'yes': expected true or false"),
        ("[runtime]\nstep-delay = {a = 1}", "step-delay in [runtime] is {'a': 1}: expected a number"),
        ("[sql]\njson = true", "unknown key 'json' in [sql]: expected one of form"),
        ("[model]\nfetch = 1", "unknown key 'fetch' in [model]: it has none"),
        ("collector = 1", "unknown table [collector]"),
    ],
)
def test_a_bad_setting_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tailbudget.toml").write_text(text)
    assert run(["sql", "select 1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("tailbudget: tailbudget.toml: ")
    assert told in error
    assert error.count("\n") == 1


def test_a_settings_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "tailbudget.toml"
    file.write_bytes(b"[sql]\n# caf\xe9\n")
    with pytest.raises(UserError, match=r"not in UTF-8.*byte 11"):
        config.defaults(cli, file)
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        config.defaults(cli, tmp_path)


@pytest.mark.parametrize(
    "address", ["foo", "foo:4320", "ftp://127.0.0.1", "http://", "http://h:port", "http://a b", "http://["]
)
@pytest.mark.parametrize("command", [["sql", "select 1"], ["report"], ["doctor"]])
def test_an_address_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], command: list[str], address: str
) -> None:
    assert run([*command, "--api", address]) == 2
    assert f"{address!r}: expected an address such as http://127.0.0.1:4320" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_variable_of_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    for option in COMMANDS[name].params:
        if isinstance(option, click.Option) and option.envvar:
            assert f"env var: {option.envvar}" in " ".join(shown.split())
