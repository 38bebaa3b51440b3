"""The service files are valid, hardened, and start commands that exist with options that exist."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tailbudget.app.cli import cli

from .collector_support import PROGRAM, Collector, trace_body
from .support import wait_until

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
#: systemd's own measure, 0 (safe) to 10; an unhardened service has 9.6.
MOST_EXPOSURE = {"tailbudget-collector": 15, "tailbudget-runtime": 25}
RUN_UNDER_MDWE = "import ctypes; assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0\n"


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian: apt-get install systemd)")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit with a program that is here in place of the installed one, which systemd looks for."""
    source: Path = request.param
    text = source.read_text().replace("/opt/tailbudget/bin/tailbudget", sys.executable)
    file = tmp_path / source.name
    file.write_text(text)
    return file


@pytest.mark.parametrize("unit", UNITS, indirect=True, ids=lambda path: path.name)
def test_systemd_takes_the_units(unit: Path) -> None:
    found = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, indirect=True, ids=lambda path: path.name)
def test_the_units_are_hardened(unit: Path) -> None:
    found = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE[unit.stem]}", "--no-pager", str(unit))
    assert found.returncode == 0, found.stdout + found.stderr


def commands() -> list[list[str]]:
    """Return the words behind `tailbudget` of every command in the folder."""
    lines = [line for path in UNITS for line in path.read_text().splitlines()]
    units = [line.partition("bin/tailbudget ")[2].split() for line in lines if line.startswith("ExecStart")]
    docker = re.search(r"^CMD \[(.*)\]$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    compose = re.findall(r"^ +command: \[(.*)\]$", (DEPLOY / "compose.yaml").read_text(), re.MULTILINE)
    assert docker is not None
    return units + [[word.strip(' "') for word in text.split(",")] for text in (docker[1], *compose)]


def test_what_is_started_exists_with_its_options() -> None:
    found = commands()
    assert len(found) == 5
    for words in found:
        command: click.Command = cli
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context("x", words)


def test_variables_of_the_files_are_those_of_the_options() -> None:
    known = {"TAILBUDGET_TOKEN"}
    for command in cli.commands.values():
        for parameter in command.params:
            names = parameter.envvar if isinstance(parameter.envvar, list) else [parameter.envvar]
            known |= {str(name) for name in names if name}
    documents = [*DEPLOY.rglob("*.*"), DEPLOY / "Dockerfile", DEPLOY.parent / "docs" / "deploy.md"]
    used = {name for path in documents if path.is_file() for name in re.findall(r"TAILBUDGET_\w+", path.read_text())}
    assert used - known == set()


def test_the_image_copies_all_that_the_package_is_made_of() -> None:
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    links = {path.readlink().name for path in (DEPLOY.parent / "src" / "tailbudget").iterdir() if path.is_symlink()}
    assert links | {"src", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} <= kept


def test_compose_publishes_on_loopback_alone() -> None:
    ports = re.findall(r'"([\d.:]+:\d+:\d+)"', (DEPLOY / "compose.yaml").read_text())
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_a_collector_runs_where_no_memory_may_be_written_and_executed(tmp_path: Path) -> None:
    if subprocess.run([sys.executable, "-c", RUN_UNDER_MDWE], check=False, capture_output=True).returncode:
        pytest.skip("needs a kernel with PR_SET_MDWE (Linux 6.3)")
    running = Collector(tmp_path / "data", program=RUN_UNDER_MDWE + PROGRAM, anew=True)
    try:
        running.start()
        assert running.post("/v1/traces", trace_body(3, seed=1))[0] == 200
        wait_until(lambda: running.value("select count(*) from spans") == 3)
        assert running.stop() == 0
    finally:
        if running.process is not None:
            running.kill()
