"""What a load run found, as JSON that later runs can be compared with, and as Markdown for people."""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tailbudget.instrument.vocabulary import STAGES

from . import soak
from .baseline import Regression
from .session import Session, Stepped
from .sweep import Knee

Told = Mapping[str, Any]
#: Beyond this the client was late itself, and what it measured is partly its own doing.
LATE_MS: Final = 5.0


def told(session: Session, *, knee: Knee | None = None, changes: Sequence[Regression] = ()) -> Told:
    """Return the run as a plain object; each step has its requests too, for a later comparison."""
    steps = [{**one.figures_told(), "samples": _samples(one)} for one in session.done]
    return {
        "run_id": session.run_id,
        "started": session.started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "target": session.target.url,
        "model": session.target.model or None,
        "arrivals": session.traffic.arrivals,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "steps": steps,
        "knee": None if knee is None else {"load": knee.load, "beyond": knee.beyond},
        "changes": [one.told() for one in changes],
    }


def _samples(stepped: Stepped) -> dict[str, list[Any]]:
    results = sorted(stepped.results, key=lambda one: one.planned_ns)
    first_ns = results[0].planned_ns if results else 0
    return {
        "t_s": [round((one.planned_ns - first_ns) / 1e9, 3) for one in results],
        "total_ms": [round(one.total_ms, 3) for one in results],
        "ttft_ms": [None if one.ttft_ms is None else round(one.ttft_ms, 3) for one in results],
        "outcome": [one.outcome for one in results],
        "cached": [None if one.cached_tokens is None else float(one.cached_tokens > 0) for one in results],
    }


def to_json(found: Told) -> str:
    """Return one JSON object."""
    return json.dumps(found) + "\n"


def to_markdown(found: Told) -> str:
    """Return what people read: a row a step, the stages at each, what broke first, what changed."""
    lines = [f"# Load run {found['run_id']}", "", f"{found['target']}, {found['started']}, {found['machine']}", ""]
    lines += [*_table(STEPS, [_step(step) for step in found["steps"]]), ""]
    lines += [*(f"- {line}" for step in found["steps"] for line in _broken(step)), *map("- {}".format, _warned(found))]
    if found["knee"]:
        lines += ["", f"**Knee:** {_knee(found)}"]
    rows = [(_load(step), *_kept(one)) for step in found["steps"] for one in step["objectives"]]
    if rows:
        lines += ["", "## Objectives", "", *_table(("load", "objective", "good", "n", "holds"), rows)]
    stages = [(_load(step), stage, *_ranks(step["stages"][stage])) for step in found["steps"] for stage in STAGES
              if stage in step["stages"]]  # fmt: skip
    if stages:
        lines += ["", "## Stages, ms", "", *_table(("load", "stage", "p50", "p95", "p99"), stages)]
    for step in found["steps"]:
        lines += ["", *soak.to_markdown(step["soak"])] if "soak" in step else []
    if found["changes"]:
        lines += ["", "## Against the baseline", "", *_table(CHANGES, [_change(one) for one in found["changes"]])]
    return "\n".join(lines) + "\n"


STEPS: Final = ("load", "n", "answered/s", "goodput/s", "total p50", "p95", "p99 ms", "ttft p95 ms", "tpot p95 ms",
                "late p99 ms", "holds")  # fmt: skip
CHANGES: Final = ("load", "measure", "before", "now", "change", "95 % interval", "verdict")
WORDS: Final = {True: "yes", False: "NO", None: "-"}


def _load(step: Told) -> str:
    return "trace" if step["offered"] is None else f"{step['offered']:g} {step['unit']}"


def _step(step: Told) -> tuple[str, ...]:
    clocks = (step["ttft_ms"].get("p95"), step["tpot_ms"].get("p95"), step["late_ms"].get("p99"))
    goodput = f"{step['goodput_per_s']:g}"
    return (_load(step), f"{step['n']:,}", f"{step['per_s']:g}", goodput, *_ranks(step["total_ms"]),
            *map(_number, clocks), WORDS[step["holds"]])  # fmt: skip


def _ranks(found: Told) -> tuple[str, ...]:
    return tuple(_number(found.get(rank)) for rank in ("p50", "p95", "p99"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _kept(one: Told) -> tuple[str, ...]:
    good = f"{1 - one['bad'] / one['n']:.2%}" if one["n"] else ""
    return f"{one['objective']}: {one['promise']}", good, f"{one['n']:,}", WORDS[one["holds"]]


def _broken(step: Told) -> Iterator[str]:
    for name, phase in step.get("phases", {}).items():
        yield f"at {_load(step)}, {name} the disruption: {phase['n']:,} sent, {phase['failed']:,} failed"
    if "healthy_after" in step:
        yield f"at {_load(step)}: {'well' if step['healthy_after'] else 'NOT WELL'} afterwards"
    bad = {name: n for name, n in step["outcomes"].items() if name not in ("ok", "left")}
    if bad:
        yield f"at {_load(step)}: " + ", ".join(f"{n:,} {name}" for name, n in bad.items())
    if broke := step["broke"]:
        where = "no stage is known" if broke["stage"] is None else f"{broke['stage']} broke first"
        by = "" if broke["excess_ms"] is None else f", {broke['excess_ms']:,.1f} ms over the lowest load"
        yield f"at {_load(step)}: {', '.join(broke['objectives'])} do not hold; {where}{by}"


def _warned(found: Told) -> Iterator[str]:
    late = [step for step in found["steps"] if step["late_ms"].get("p99", 0.0) > LATE_MS]
    if late:
        loads = ", ".join(map(_load, late))
        yield f"the client itself was late at {loads}: it needs more of a processor, or a machine of its own"
    unseen = [step for step in found["steps"] if step["with_telemetry"] == 0]
    if unseen:
        yield "no stage was told by the service: a stream is prefill until its first token, decode from then on"


def _knee(found: Told) -> str:
    knee, unit = found["knee"], found["steps"][0]["unit"]
    if knee["load"] is None:
        return f"none: {knee['beyond']:g} {unit}, the lowest load, does not hold"
    end = "the highest that was tried" if knee["beyond"] is None else f"{knee['beyond']:g} does not hold"
    return f"{knee['load']:g} {unit} ({end})"


def _change(one: Told) -> tuple[str, ...]:
    if "change" not in one:
        return _load(one), one["measure"], "", "", "", "", one["verdict"]
    rate = one["measure"].endswith("_rate")
    form = "{:+.1f} points" if rate else "{:+.1f} %"
    change, low, high = (form.format(100 * one[name]) for name in ("change", "low", "high"))
    a, b = (f"{one[name]:.2%}" if rate else _number(one[name]) for name in ("a", "b"))
    return _load(one), one["measure"], a, b, change, f"{low} to {high}", one["verdict"]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [names, ["---"] * len(names), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
