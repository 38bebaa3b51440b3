"""Python processes that are forked from one which has imported what they need: that is half of what they cost.

`python` starts one. The process that all with the same imports are forked from begins with the first of them, has no
threads, and ends with the tests.
"""

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def _linked(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("LD_")}


#: What the environment said to the dynamic linker when the tests began.
LINKED = _linked(os.environ)
MESSAGE_BYTES = 1 << 20


class Forked:
    """A process that behaves as `subprocess.Popen[str]` with both outputs piped does."""

    def __init__(self, nursery: "Nursery", job: Mapping[str, Any]) -> None:
        self.returncode: int | None = None
        self._outputs = [os.memfd_create(name) for name in ("stdout", "stderr")]
        self._status, status = os.pipe()
        weakref.finalize(self, _close, *self._outputs, self._status)
        self.pid = nursery.fork(job, [*self._outputs, status])
        os.close(status)

    def poll(self) -> int | None:
        """Return the exit status, negative after a signal, or None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once there is one; raises TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self._ended()
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return all that it wrote to its outputs."""
        self.wait(timeout)
        out, errors = (os.pread(each, os.fstat(each).st_size, 0).decode() for each in self._outputs)
        return out, errors

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self) -> None:
        if self.returncode is None:
            (self.returncode,) = struct.unpack("i", os.read(self._status, 4))


Process = subprocess.Popen[str] | Forked


def python(code: str, *arguments: str, imports: str | None, environment: Mapping[str, str] = {}) -> Process:
    """Start a process that runs the code with these arguments, as `python -c` does, after importing a module.

    It is no fork without that, nor where its environment speaks to the dynamic linker, which reads it when a program
    starts.
    """
    whole = {**os.environ, **environment}
    if imports is None or _linked(whole) != LINKED:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(command, env=whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    job = {"code": code, "arguments": arguments, "environment": whole, "folder": str(Path.cwd())}
    return Forked(_nursery(imports), job)


class Nursery:
    """The process that others are forked from."""

    def __init__(self, imports: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.forked", str(theirs.fileno()), imports]
        with theirs:
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._asked = ours
        self._one = threading.Lock()
        atexit.register(self.close)

    def fork(self, job: Mapping[str, Any], files: list[int]) -> int:
        """Return the id of a process that does the job; `files` are its outputs and where its status goes."""
        with self._one:
            socket.send_fds(self._asked, [json.dumps(job).encode()], files)
            return int(self._asked.recv(64))

    def close(self) -> None:
        """End the process; those that were forked from it go on."""
        self._asked.close()
        self._process.wait(60)


@cache
def _nursery(imports: str) -> Nursery:
    return Nursery(imports)


def _close(*files: int) -> None:
    for file in files:
        os.close(file)


def _born(asked: socket.socket) -> Any:
    """Fork a process for each job that comes, and return the job in it; ends when nobody asks any more."""
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    while True:
        ready = select.select([asked, woken], [], [])[0]
        if woken in ready:
            woken.recv(4096)
            _tell_ends(running)
        if asked in ready:
            text, files, _, _ = socket.recv_fds(asked, MESSAGE_BYTES, 3)
            if not text:
                sys.exit(0)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                _close(*running.values())
                for each in (asked, woken, wakes):
                    each.close()
                return _become(json.loads(text), files)
            out, errors, running[pid] = files
            _close(out, errors)
            asked.send(b"%d" % pid)


def _tell_ends(running: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            status = running.pop(ended[0])
            with contextlib.suppress(BrokenPipeError):
                os.write(status, struct.pack("i", os.waitstatus_to_exitcode(ended[1])))
            os.close(status)


def _become(job: Mapping[str, Any], files: list[int]) -> Any:
    """Take outputs, signals, folder, environment and arguments of the job, and return its code."""
    for target, file in enumerate(files[:2], 1):
        os.dup2(file, target)
    _close(*files)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv = ["-c", *job["arguments"]]
    return job["code"]


if __name__ == "__main__":
    importlib.import_module(sys.argv[2])
    # As the last statement, so that such a process ends as any other does.
    exec(compile(_born(socket.socket(fileno=int(sys.argv[1]))), "<string>", "exec"), {"__name__": "__main__"})
