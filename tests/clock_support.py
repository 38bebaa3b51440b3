"""A wall clock that tests turn, for processes that they start."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

STUB = Path(__file__).with_name("clock_stub.c")


class Clock:
    """A wall clock; skips the test without a C compiler. A process with `environment` lives by it."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("needs a C compiler: the clock is moved by a small library")
        library, self._offset = folder / "clock.so", folder / "offset"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, STUB, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._offset)}
        self.turn(0)

    def turn(self, by_s: int) -> None:
        """Let the clock be so many seconds fast."""
        new = self._offset.with_suffix(".new")
        new.write_text(str(by_s))
        new.replace(self._offset)  # whoever reads it meanwhile reads the old one or the new one

    def turn_to(self, at_s: float) -> None:
        """Let it be this instant now, to the second, in seconds since 1970."""
        self.turn(round(at_s - time.time()))
