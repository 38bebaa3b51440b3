"""Child processes of `tailbudget up`: started, waited for until they answer, stopped together."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tailbudget.instrument.errors import UserError

PR_SET_PDEATHSIG = 1
#: All parts have this long to end after the first SIGTERM; what is left then is killed.
STOP_WITHIN_S = 20.0


@dataclass(frozen=True)
class Part:
    """One child process, `python -m` with `arguments`."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Answers 200 once the part serves; empty when there is nothing to wait for.
    ready_url: str = ""
    #: What is shown once it answers: address by name.
    addresses: Mapping[str, str] = field(default_factory=dict)
    #: Its standard output goes to the terminal instead of its log file.
    speaks: bool = False


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Processes:
    """The running parts, in the order in which they were started; `stop` ends them in reverse."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[tuple[Part, subprocess.Popen[bytes]]] = []

    def start(self, part: Part) -> None:
        """Start `part`, its output in `<logs>/<name>.log`; raises UserError when the log cannot be written."""
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            log = (self._logs / f"{part.name}.log").open("wb")
        except OSError as error:
            raise UserError(f"cannot write logs to {str(self._logs)!r}: {error.strerror}") from error
        with log:
            # A session of its own keeps the terminal's Ctrl-C from reaching it: `stop` decides the order.
            process = subprocess.Popen(
                [sys.executable, "-m", *part.arguments],
                stdin=subprocess.DEVNULL,
                stdout=None if part.speaks else log,
                stderr=log,
                env={**os.environ, **part.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._running.append((part, process))

    def wait_ready(self, part: Part, *, timeout_s: float, stopping: Callable[[], bool]) -> None:
        """Return once `part` answers, or when `stopping()`; raises UserError when it ended or took too long."""
        deadline = time.monotonic() + timeout_s
        while not stopping():
            self.check()
            if _answers(part.ready_url):
                return
            if time.monotonic() > deadline:
                raise UserError(f"{part.name} did not answer within {timeout_s:.0f} s: see {self._log(part)}")
            time.sleep(0.1)

    def check(self) -> None:
        """Raise UserError, with the part's own last words, when one has ended."""
        for part, process in self._running:
            if process.poll() is not None:
                raise UserError(self._last_words(part, process.returncode))

    def stop(self) -> None:
        """End all parts, last started first; returns when none is left."""
        deadline = time.monotonic() + STOP_WITHIN_S
        for part, process in reversed(self._running):
            _signal(process, signal.SIGTERM)
            if part.speaks:  # it must not talk about the others going away
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=3)
        for _, process in reversed(self._running):
            try:
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
        self._running.clear()

    def _log(self, part: Part) -> str:
        return str(self._logs / f"{part.name}.log")

    def _last_words(self, part: Part, status: int) -> str:
        lines = Path(self._log(part)).read_text(encoding="utf-8", errors="replace").splitlines()
        for line in reversed(lines):
            if line.startswith("tailbudget: "):
                return line.removeprefix("tailbudget: ")
        return f"{part.name} ended with status {status}: see {self._log(part)}"


def _answers(url: str) -> bool:
    if not url:
        return True
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own parts on loopback
            return bool(answer.status == 200)
    except OSError:
        return False


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
