"""What several tests need: free ports, waiting for a condition, the folder of shared captures."""

import atexit
import os
import random
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeVar

import pytest

T = TypeVar("T")
#: Below the kernel's ephemeral range (32768 and up), so that no outgoing connection takes one of them meanwhile.
PORTS = range(20_000, 32_000)
SHARED = Path(__file__).resolve().parents[2] / "shared"
#: Captured request bodies, one folder a source; its README says what each file is.
CONFORMANCE = Path(__file__).resolve().parent / "conformance"


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


def scratch() -> Path:
    """Return a new folder for what is made once a process; it goes with this process, not with one forked from it."""
    folder, owner = Path(mkdtemp(prefix="tailbudget-scratch-")), os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    return folder


def wait_until(condition: Callable[[], T | None], *, timeout_s: float = 120.0, what: str = "condition") -> T:
    """Return the first truthy value of `condition`, polled every 50 ms; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not hold within {timeout_s} s")


def shared(name: str) -> Path:
    """Return a folder of the shared captures, or skip the test where they are absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs ../shared/{name}, which is not beside this checkout")
    return path
