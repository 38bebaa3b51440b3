"""Holds a step of a load run to objectives, and says which stage broke first where they do not hold."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from tailbudget.analytics.duck import connect
from tailbudget.analytics.objectives import Objective
from tailbudget.analytics.objectives.burn import conditions
from tailbudget.analytics.objectives.model import stages_of
from tailbudget.instrument.vocabulary import STAGES

from .results import Result
from .target import Target

HERE: Final = Path(__file__).parent
TEXTS: Final = ("request_id", "trace_id", "service", "route", "tenant", "model", "version", "region", "conversation_id",
                "outcome", "left_in_stage", "root_kind", "feedback")  # fmt: skip
WHOLE: Final = ("calls", "tool_rounds", "attempts", "input_tokens", "output_tokens", "cached_tokens", "prompt_bucket")
CLOCKS: Final = ("total_ms", "ttft_ms", "usable_ms", "final_ms", "tpot_ms")
SCHEMA: Final = pa.schema(
    [(name, pa.string()) for name in TEXTS]
    + [(name, pa.int64()) for name in WHOLE]
    + [(name, pa.float64()) for name in (*CLOCKS, *(f"{stage}_ms" for stage in STAGES), "cost_usd")]
    + [("fallback", pa.bool_())]
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """How one objective fared: `n` requests that it counts, `bad` of them; `holds` is None where it counts none."""

    objective: str
    promise: str
    target: float
    n: int
    bad: int

    @property
    def holds(self) -> bool | None:
        """Whether the share of good requests reached the target."""
        return None if self.n == 0 else 1 - self.bad / self.n >= self.target


@dataclass(frozen=True)
class Broken:
    """The stage in which the requests that missed an objective spent more than at the lowest load; None if unknown."""

    objectives: tuple[str, ...]
    stage: str | None
    excess_ms: float | None


def rows(results: Sequence[Result], served: Mapping[str, Row], *, run_id: str, target: Target) -> pa.Table:
    """Return one row a request as `requests` has it: clocks are the client's, from the planned sending; stages, route
    and the like the service's where it told, by request id.

    What the client waited beyond what the service saw is network. Where no service told, a stream is prefill until its
    first token and decode from then on. Clients that were told to leave are left out.
    """
    stays = (one for one in results if not one.planned_to_leave)
    return pa.Table.from_pylist(
        [_row(one, served.get(f"{run_id}-{one.number}"), run_id, target) for one in stays], SCHEMA
    )


def _row(result: Result, served: Row | None, run_id: str, target: Target) -> Row:
    own = {
        "request_id": f"{run_id}-{result.number}",
        "trace_id": result.trace_id,
        "outcome": "error" if result.outcome in ("unsent", "left") else result.outcome,
        "total_ms": result.total_ms,
        "ttft_ms": result.ttft_ms,
        "final_ms": result.total_ms,
        "tpot_ms": result.tpot_ms,
    }
    known = {"tenant": result.tenant or None, "route": target.route, "model": target.model or None,
             "input_tokens": result.input_tokens, "output_tokens": result.output_tokens}  # fmt: skip
    if served is None:
        return {**known, **_by_first_token(result), **own}
    beyond_ms = max(0.0, result.total_ms - served["total_ms"])
    seen = {name: value for name, value in served.items() if name in SCHEMA.names and value is not None}
    seen["network_ms"] = seen.get("network_ms", 0.0) + beyond_ms
    if "usable_ms" in seen:
        seen["usable_ms"] += beyond_ms
    outcome = served["outcome"] if own["outcome"] == "ok" else own["outcome"]  # it may know of an answer cut short
    return {**known, **seen, **own, "outcome": outcome}


def _by_first_token(result: Result) -> Row:
    if result.ttft_ms is None:
        return {}
    return {"prefill_ms": result.ttft_ms, "decode_ms": result.total_ms - result.ttft_ms}


def judge(requests: pa.Table, objectives: Sequence[Objective]) -> list[Kept]:
    """Return how each objective fared on one step."""
    with _database(requests) as connection:
        found = [(one, connection.execute(_sql("judged").format(**conditions(one))).fetchone()) for one in objectives]
    return [Kept(one.name, str(one), one.target, *(counts or (0, 0))) for one, counts in found]


def good(requests: pa.Table, objectives: Sequence[Objective]) -> int:
    """Return how many requests were answered and met every objective that counts them."""
    bad = [_missed(conditions(one)) for one in objectives]
    with _database(requests) as connection:
        text = " and ".join(["outcome in ('ok', 'left', 'degraded')", *(f"not {one}" for one in bad)])
        counted = connection.execute(f"select count(*) from requests where {text}").fetchone()  # noqa: S608
    return int(counted[0]) if counted else 0


def broken(
    requests: pa.Table, objectives: Sequence[Objective], kept: Sequence[Kept], *, calm: pa.Table
) -> Broken | None:
    """Return what broke, by the objectives that do not hold; `calm` are the requests of the lowest load.

    Where such an objective limits stages, it is one of them. None where all hold.
    """
    failed = [one for one, how in zip(objectives, kept, strict=True) if how.holds is False]
    if not failed:
        return None
    limited = {stage for one in failed for limit in one.limits for stage in stages_of(limit.measure)}
    text = _sql("excess").format(
        columns=", ".join(f"{stage}_ms" for stage in STAGES),
        bad=" or ".join(_missed(conditions(one)) for one in failed),
    )
    with _database(requests, calm) as connection:
        found = connection.execute(text, {"stages": list(STAGES)}).fetchall()
    stage, excess_ms = next(
        ((name, excess) for name, _, excess in found if not limited or name in limited), (None, None)
    )
    return Broken(tuple(one.name for one in failed), stage, excess_ms)


def _missed(words: Mapping[str, str]) -> str:
    return f"coalesce(({words['where']}) and ({words['counts']}) and ({words['bad']}), false)"


@contextmanager
def _database(requests: pa.Table, calm: pa.Table | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection with `requests`, `calm_requests`, and in `calls` the clock that requests have none of."""
    connection = connect()
    try:
        connection.register("requests", requests)
        connection.register("calm_requests", requests if calm is None else calm)
        connection.execute("create view calls as select trace_id, request_id, tpot_ms from requests")
        yield connection
    finally:
        connection.close()


@cache
def _sql(name: str) -> str:
    lines = (HERE / f"{name}.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))
