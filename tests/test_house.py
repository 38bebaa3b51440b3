"""The layout holds: links resolve, imports run down the floors, files stay small, every part is in the wheel."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tailbudget.analytics.duck import connect

from .conftest import LONGEST

ROOT = Path(__file__).resolve().parents[1]
#: A part may import parts of a lower floor, and analytics' vocabulary comes from instrument.
FLOORS = {"instrument": 1, "gpu_runtime": 2, "analytics": 2, "collector": 3, "app": 4}
COMPILER = shutil.which("cc") or shutil.which("gcc")
EXTENSION = "tailbudget/collector/receive/_otlp.abi3.so"
STEPS = "tailbudget/gpu_runtime/_decode.abi3.so"
CLOCKS = "tailbudget/instrument/_clocks.abi3.so"
DECODE = """
from tailbudget.collector.receive import _otlp, decoder
from tailbudget.collector.receive.privacy import DROP
print(decoder.decoder_of(DROP), decoder.decode_body("traces", b"", content=DROP).rows, _otlp.__file__)
"""
SOURCES = sorted(path for part in FLOORS for path in (ROOT / part).rglob("*.py"))


@pytest.mark.parametrize("part", FLOORS)
def test_every_part_is_reached_through_its_link(part: str) -> None:
    link = ROOT / "src" / "tailbudget" / part
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / part


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_down_the_floors_only(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0]
    for module in _imported(path):
        if module.startswith("tailbudget."):
            other = module.split(".")[1]
            assert FLOORS[other] < FLOORS[part], f"{part} imports {module}"


def _imported(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
    return modules


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines < (60 if path.parent == ROOT / "app" / "pages" else 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 40, f"{path.name}: {node.name}"


def test_a_question_that_takes_long_draws_no_progress_bar_amid_the_answer() -> None:
    connection = connect()
    for asked in (connection, connection.cursor()):
        assert asked.execute("select current_setting('enable_progress_bar')").fetchall() == [(False,)]
    own = [path.name for path in SOURCES if "duckdb.connect(" in path.read_text(encoding="utf-8")]
    assert own == ["duck.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_test_files_that_begin_first_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / f"{name}.py").exists()] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (packed,) = folder.glob("*.whl")
    zipfile.ZipFile(packed).extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.filterwarnings("default")
def test_a_wheel_built_from_the_sdist_holds_every_file_of_every_part(wheel: Path) -> None:
    files = (path.relative_to(wheel) for path in wheel.rglob("*") if path.is_file())
    packed = {str(path) for path in files if not path.parts[0].endswith(".dist-info")}
    tracked = {f"tailbudget/{name}" for name in _tracked() if not name.endswith((".c", ".h"))}
    built = {EXTENSION, STEPS, CLOCKS} if COMPILER else set()
    own = {f"tailbudget/{name}" for name in ("__init__.py", "guards.py", "py.typed", "testing.py")}
    assert packed == own | tracked | built


@pytest.mark.skipif(not COMPILER, reason="the extension needs a C compiler")
def test_the_decoder_of_that_wheel_decodes(wheel: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(wheel), "TAILBUDGET_REQUIRE_NATIVE": "1"}
    done = subprocess.run([sys.executable, "-c", DECODE], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["native", "0", str(wheel / EXTENSION)]), done.stderr


def test_a_missing_extension_costs_speed_alone_unless_it_is_required(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tailbudget.collector.receive._otlp'] = None\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    environment = os.environ | {"PYTHONPATH": path}
    environment.pop("TAILBUDGET_REQUIRE_NATIVE", None)
    program = [
        sys.executable,
        "-c",
        "from tailbudget.collector.receive import decoder as d, privacy as p; print(d.decoder_of(p.DROP))",
    ]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "python\n", done.stderr
    environment["TAILBUDGET_REQUIRE_NATIVE"] = "1"
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert "_otlp" in done.stderr
    assert done.returncode == 1


def _tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files", *FLOORS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(listed.splitlines())
