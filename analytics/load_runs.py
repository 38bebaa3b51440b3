"""Load runs: which there were, what each step of one was like, and where its requests spent their time."""

import pyarrow as pa

from tailbudget.instrument.vocabulary import STAGES

from .questions import ask
from .reader import Reader
from .window import Window


def load_runs(reader: Reader, window: Window) -> pa.Table:
    """Return one row a run that ended in the window, newest first: run_id, ended, unit, steps, n, knee.

    `knee` is the highest load at which all objectives held below the first at which one did not; null without any.
    """
    return ask(reader, "load_runs", window.span())


def load_steps(reader: Reader, *, run_id: str) -> pa.Table:
    """Return one row a step of a run, lowest load first.

    Columns: step, unit, offered (answers a second where a trace set the load), n, per_s, goodput_per_s, holds,
    broke_stage, p50_ms, p95_ms, p99_ms, ttft_p95_ms, late_p99_ms, state (holds, broke or no objective), knee.
    """
    return ask(reader, "load_steps", {"run_id": run_id})


def load_stages(reader: Reader, *, run_id: str) -> pa.Table:
    """Return one row a step and stage that took time: step, offered, stage, n, ms (mean), share of the path."""
    return ask(reader, "load_stages", {"run_id": run_id, "stages": list(STAGES)})
