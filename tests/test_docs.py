"""What README.md shows works: its service, its commands, its files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import httpx
import pytest

from tailbudget.analytics.objectives import load
from tailbudget.app.cli import cli

from .instrument_support import ModelServer, serve, sink
from .support import free_port, wait_until

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted(ROOT.glob("*.md"))


def _answer(url: str) -> str:
    try:
        return httpx.get(url, timeout=120).text
    except httpx.ConnectError:
        return ""


def test_the_service_of_the_readme_is_timed_stage_by_stage(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    with sink() as received, serve(ModelServer(words=["one ", "two."]).app()) as model:
        (tmp_path / "service.py").write_text(code.replace("http://127.0.0.1:8000", model))
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning"]
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": received.url}
        with subprocess.Popen(command, cwd=tmp_path, env=environment) as service:
            try:
                said = wait_until(lambda: _answer(f"http://127.0.0.1:{port}/chat?q=why"), what="an answer")
                wait_until(lambda: "/chat" in received.span_names(), what="the request's span")
            finally:
                service.terminate()
    assert said == "one two."
    names = set(received.span_names())
    assert {"/chat", "retrieval docs", "chat smollm2"} <= names
    (request,) = (span for span in received.spans() if span.name == "/chat")
    budgets = {a.key: a.value.double_value for a in request.attributes if a.key.startswith("slo.budget.")}
    assert budgets == {"slo.budget.total": 2.5, "slo.budget.retrieval": 0.3, "slo.budget.decode": 1.5}


def test_the_objectives_of_the_readme_are_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "slo.yaml").write_text(text)
    assert [one.name for one in load([tmp_path / "slo.yaml"])] == [
        "chat.total",
        "chat.ttft",
        "chat.retrieval",
        "chat.success",
    ]


def test_every_command_is_in_the_readme() -> None:
    for name, command in cli.commands.items():
        names = [f"{name} {sub}" for sub in command.commands] if isinstance(command, click.Group) else [name]
        for one in names:
            assert f"tailbudget {one}" in README


def test_every_benchmark_is_in_the_readme() -> None:
    for script in (ROOT / "benchmarks").glob("*.py"):
        assert script.stem == "machine" or f"benchmarks/{script.name}" in README


def test_the_tour_of_the_runtime_names_every_module() -> None:
    tour = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    modules = {path.stem for path in (ROOT / "gpu_runtime").glob("*.py")} - {"__init__"}
    assert modules == {name for name in re.findall(r"`(\w+)`", tour) if name in modules}


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("query", re.findall(r'tailbudget sql "([^"]+)"', README))
def test_every_query_of_the_readme_runs_on_an_empty_collector(query: str, empty_data: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tailbudget.app.main", "sql", query, "--data", str(empty_data)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def empty_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tailbudget.collector.land.database import open_database

    folder = tmp_path_factory.mktemp("data")
    open_database(folder).close()
    return folder
