"""One run of `tailbudget up` in a folder and on ports of its own."""

import os
import subprocess
import sys
from pathlib import Path

from .support import free_port

PARTS = ("HTTP", "GRPC", "API", "RUNTIME", "APP", "DEMO")


class Up:
    """One run of the command in a folder of its own, on ports of its own."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.ports = {f"TAILBUDGET_{part}_PORT": str(free_port()) for part in PARTS} | environment
        self.data = folder / "data"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tailbudget.app.main", "up", "--data", str(self.data), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self.ports},
            start_new_session=True,
        )

    def lines_until(self, word: str) -> list[str]:
        """Return the lines printed up to the one that begins with `word`."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith(word):
                return lines
        raise AssertionError("".join(lines))

    def ended(self) -> tuple[int, str]:
        """Return exit status and the rest of the output."""
        output, _ = self.process.communicate(timeout=120)
        return self.process.returncode, output

    def left_running(self) -> list[str]:
        """Return the command lines of processes that still use this run's ports."""
        commands = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_text().split("\0")
            except OSError:
                continue
            if "tailbudget" in " ".join(words) and any(port in words for port in self.ports.values()):
                commands.append(" ".join(words))
        return commands
