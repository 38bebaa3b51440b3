"""Imported by every Python below `tailbudget run`: starts telemetry, after the sitecustomize that this one hides.

A Python that has no tailbudget, such as a tool's own, runs as if nothing was there.
"""

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def _run_hidden() -> None:
    here = Path(__file__).resolve().parent
    others = [path for path in sys.path if Path(path or ".").resolve() != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


def _start() -> None:
    try:
        autostart = import_module("tailbudget.instrument.autostart")
    except ImportError:
        return
    autostart.start()


try:
    _run_hidden()
finally:
    _start()
