"""The small stub of the NVIDIA driver's library, compiled for the tests that sample GPUs."""

import shutil
import subprocess
from pathlib import Path

import pytest

STUB = Path(__file__).with_name("nvml_stub.c")


def compiled(folder: Path, *flags: str) -> Path:
    """Compile the stub into `folder`, which goes to LD_LIBRARY_PATH; skips the test without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, which is not on this machine")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", *flags, "-o", str(library), str(STUB)]
    subprocess.run(command, check=True)
    return folder


def absent(folder: Path) -> Path:
    """Hide this machine's own driver, if it has one: the loader takes the empty file in `folder` and gives up."""
    (folder / "libnvidia-ml.so.1").touch()
    return folder
