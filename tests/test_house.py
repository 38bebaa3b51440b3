"""The layout holds: links resolve, imports run down the floors, files stay small, every part is in the wheel."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: A part may import parts of a lower floor, and analytics' vocabulary comes from instrument.
FLOORS = {"instrument": 1, "gpu_runtime": 2, "analytics": 2, "collector": 3, "app": 4}
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


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.filterwarnings("default")
def test_a_wheel_built_from_the_sdist_holds_every_file_of_every_part(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    own = {f"tailbudget/{name}" for name in ("__init__.py", "guards.py", "py.typed", "testing.py")}
    assert packed == own | {f"tailbudget/{name}" for name in _tracked()}


def _tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files", *FLOORS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(listed.splitlines())
