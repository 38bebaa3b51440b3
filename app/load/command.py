"""`tailbudget load`: from options to a session, and from what it found to an exit status."""

import asyncio
import json
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import tailbudget
from tailbudget.analytics.objectives import Objective, load
from tailbudget.analytics.reader import ApiReader, QueryError, Reader
from tailbudget.instrument.errors import UserError

from . import baseline, presets, report, soak, traces
from .arrivals import replayed
from .behaviour import PATIENT
from .client import Client, Clock, Order
from .disruption import Disruption
from .live import Live
from .plan import Traffic
from .prompts import Prompts
from .results import Result
from .runner import Step, Unit
from .session import WARM_UP, Session, Stepped, StoppedError
from .shapes import Lengths, lengths
from .sweep import Knee, sweep
from .target import DEFAULT_BODY, Target, address_of, headers_of
from .telemetry import SERVICE, Sender
from .traces import Shape

#: Exit status when an objective does not hold or a baseline is missed; 1 is a wrong setting, 2 a wrong option.
FAILED: Final = 3
#: After Ctrl-C, which ends the sending; what was sent until then is in the report.
INTERRUPTED: Final = 130
#: Long enough to measure the tokenizer, short enough for any context.
WARM_UP_WORDS: Final = 64
OBJECTIVES: Final = Path("slo.yaml")
#: Times the lowest load, where a sweep is asked for without loads of its own.
STEPS_TIMES: Final = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The options of the command, as they were given."""

    url: str
    rate: float | None
    clients: int | None
    sweep: bool
    loads: Sequence[float]
    every: bool
    duration: timedelta
    requests: int | None
    arrivals: str
    cv: float
    trace: str | None
    tokens_in: str
    tokens_out: str
    scale: float
    most_in: int
    most_out: int
    shared_prefix: int
    think: float
    tenants: int
    model: str
    api_key: str
    headers: Sequence[str]
    body: str
    method: str
    no_stream: bool
    timeout: float
    warmup: int
    seed: int
    slo: Sequence[Path]
    api: str
    http: str
    presets: Sequence[str]
    crowd: Sequence[str]
    soak: bool
    memory: str
    breaks: str
    mends: str
    out: str | None
    baseline: Path | None
    as_json: bool


def run(wanted: Wanted) -> int:
    """Run the load, print the report, and return the exit status: FAILED where an objective or the baseline fails."""
    objectives = _objectives(wanted)
    before = baseline.read(wanted.baseline) if wanted.baseline else None
    if before:
        baseline.check_loads(before, _unit(wanted), _loads(wanted))
    if wanted.out and not Path(wanted.out).absolute().parent.is_dir():
        raise UserError(f"--out {wanted.out!r} cannot be written: its folder does not exist")
    session = Session(make_target(wanted), make_traffic(wanted), objectives, timeout_s=wanted.timeout)
    session.disruption = make_disruption(wanted)
    session.soaks, session.memory = wanted.soak, soak.memory_reader(wanted.memory)
    session.reader = _collector(wanted)
    session.live = Live(sys.stderr, run_id=session.run_id, reader=session.reader)
    if session.reader:
        tailbudget.init(SERVICE, endpoint=wanted.http, instrument_libraries=False)
    try:
        found = asyncio.run(_run(wanted, session, before))
    finally:
        tailbudget.shutdown()
    _write(wanted, found)
    if found["stopped"]:
        return INTERRUPTED
    if before:
        baseline.check_loads(before, _unit(wanted), [step["offered"] for step in found["steps"]])
    return FAILED if _failed(found) else 0


async def _run(wanted: Wanted, session: Session, before: Mapping[str, Any] | None) -> report.Told:
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, session.stop)
    session.target = await _warmed(wanted, session.target, session.traffic)
    knee = None
    with suppress(StoppedError):
        knee = await _steps(wanted, session)
    changes = baseline.regressions(before, report.told(session)["steps"]) if before and session.done else []
    return {**report.told(session, knee=knee, changes=changes), "stopped": session.stopped}


async def _steps(wanted: Wanted, session: Session) -> Knee | None:
    lasts_s = wanted.duration.total_seconds()

    async def at(load: float | None) -> Stepped:
        stepped = await session.run(Step(len(session.done) + 1, _unit(wanted), load, lasts_s, wanted.requests))
        if session.objectives and stepped.holds is None and not session.stopped:
            raise _uncounted(session, stepped)
        return stepped

    if wanted.sweep:
        return await sweep(_loads_of_sweep(wanted), at, every=wanted.every)
    await at(wanted.clients or wanted.rate)
    return None


def _unit(wanted: Wanted) -> Unit:
    return "clients" if wanted.clients else "requests/s"


def _loads(wanted: Wanted) -> Sequence[float | None]:
    """Return the loads that may be sent; None is that of a trace."""
    return _loads_of_sweep(wanted) if wanted.sweep else [wanted.clients or wanted.rate]


def _loads_of_sweep(wanted: Wanted) -> Sequence[float]:
    lowest = float(wanted.clients or wanted.rate or 1.0)
    times = sorted(set(wanted.loads)) or [lowest * factor for factor in STEPS_TIMES]
    return sorted({float(round(load)) for load in times}) if _unit(wanted) == "clients" else times


def _uncounted(session: Session, stepped: Stepped) -> UserError:
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in stepped.figures["outcomes"].items())
    route = session.target.route
    return UserError(
        f"no objective counts a request of {route} ({outcomes or 'nothing was sent'}): expected one whose `where` does"
    )


def make_disruption(wanted: Wanted) -> Disruption | None:
    """Return what breaks amid each step; raises UserError where a preset needs commands that are not given."""
    named = [name for name in wanted.presets if name in presets.DISRUPTIONS]
    if bool(wanted.breaks) != bool(wanted.mends) or (named and not wanted.breaks):
        why = f"--preset {named[0]}" if named else "a disruption"
        raise UserError(f"{why} needs two commands: --break 'what stops the part' and --mend 'what starts it again'")
    return Disruption(wanted.breaks, wanted.mends) if wanted.breaks else None


def _failed(found: report.Told) -> bool:
    if any(_unwell(step) for step in found["steps"]):
        return True
    if any(one["verdict"] == "worse" for one in found["changes"]):
        return True
    if found["knee"]:
        return found["knee"]["load"] is None
    return any(step["holds"] is False for step in found["steps"])


def _unwell(step: Mapping[str, Any]) -> bool:
    """Return whether the target did not come back after what went wrong, or drifts."""
    after = step.get("phases", {}).get("after", {})
    if any(one["verdict"] == "worse" for one in step.get("soak", {}).get("drifts", ())):
        return True
    return step.get("healthy_after") is False or bool(after.get("failed", 0) > after.get("n", 0) / 2)


def _write(wanted: Wanted, found: report.Told) -> None:
    if wanted.out:
        Path(f"{wanted.out}.json").write_text(report.to_json(found), encoding="utf-8")
        Path(f"{wanted.out}.md").write_text(report.to_markdown(found), encoding="utf-8")
    slim = {**found, "steps": [{k: v for k, v in step.items() if k != "samples"} for step in found["steps"]]}
    sys.stdout.write(json.dumps(slim, indent=1) + "\n" if wanted.as_json else report.to_markdown(found))


def _objectives(wanted: Wanted) -> Sequence[Objective]:
    files = list(wanted.slo) or ([OBJECTIVES] if OBJECTIVES.exists() else [])
    if wanted.sweep and not files:
        raise UserError("a sweep looks for the highest load at which objectives hold: name a file of them with --slo")
    return load(files) if files else ()


def make_target(wanted: Wanted) -> Target:
    """Return what is asked; raises UserError for an address or header that is none."""
    url, api = address_of(wanted.url)
    headers = headers_of(wanted.headers)
    if wanted.api_key:
        headers["Authorization"] = f"Bearer {wanted.api_key}"
    body = _body(wanted) if api == "http" and wanted.method != "GET" else ""
    prompts = Prompts(make_lengths(wanted).block_tokens, shared_tokens=wanted.shared_prefix)
    model = wanted.model or (_first_model(url, headers) if api != "http" else "")
    return Target(url, api, prompts, model, body, headers, wanted.method, stream=not wanted.no_stream)


def _body(wanted: Wanted) -> str:
    try:
        body = Path(wanted.body[1:]).read_text(encoding="utf-8") if wanted.body.startswith("@") else wanted.body
        json.loads(body.replace("{prompt}", "").replace("{max_tokens}", "1").replace("{n}", "1"))
    except OSError as error:
        raise UserError(f"--body {wanted.body!r} cannot be read ({error.strerror}): name a file of JSON") from error
    except ValueError as error:
        raise UserError(f"--body {wanted.body!r} is no JSON ({error}): expected as in {DEFAULT_BODY}") from error
    return body


def make_lengths(wanted: Wanted) -> Lengths:
    """Return where lengths come from."""
    return Lengths(
        lengths(wanted.tokens_in),
        lengths(wanted.tokens_out),
        traces.read(wanted.trace) if wanted.trace else (),
        scale=wanted.scale,
        most_in=wanted.most_in,
        most_out=wanted.most_out,
    )


def make_traffic(wanted: Wanted) -> Traffic:
    """Return the requests to send; raises UserError for options that do not go together."""
    if (wanted.rate is None) == (wanted.clients is None) and not (
        wanted.arrivals == "replay" and wanted.clients is None
    ):
        raise UserError("expected one of --rate (open loop) and --clients (closed loop)")
    if wanted.arrivals == "replay" and not wanted.trace:
        raise UserError("--arrivals replay needs a --trace to replay")
    chosen = make_lengths(wanted)
    if wanted.arrivals == "replay":
        next(replayed(chosen.trace))  # which refuses a trace without times
    names = [f"tenant-{number}" for number in range(1, wanted.tenants + 1)]
    return Traffic(
        chosen,
        wanted.arrivals,  # type: ignore[arg-type]
        wanted.cv,
        crowd=presets.crowd(wanted.presets, wanted.crowd),
        tenants=names,
        trace=chosen.trace,
        think_s=wanted.think,
        seed=wanted.seed,
    )


def _first_model(url: str, headers: Mapping[str, str]) -> str:
    base = url.split("/v1/")[0]
    request = urllib.request.Request(f"{base}/v1/models", headers=dict(headers))  # noqa: S310 - an address that was checked
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return str(json.loads(answer.read())["data"][0]["id"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{base}/v1/models does not say which model to ask ({error}): name it with --model") from error


def _collector(wanted: Wanted) -> Reader | None:
    reader = ApiReader(wanted.api)
    try:
        reader.query("select 1")
    except QueryError as error:
        if not error.unreachable:
            raise
        sys.stderr.write(f"no collector at {wanted.api}: stages are unknown, and the run is in its report alone\n")
        return None
    return reader


async def _warmed(wanted: Wanted, target: Target, traffic: Traffic) -> Target:
    """Send requests that are not counted; return the target with prompts of the right length for its tokenizer."""
    clock, sender = Clock(), Sender(WARM_UP, target)
    words = min(next(traffic.lengths.shapes(traffic.seed)).input_tokens, WARM_UP_WORDS)
    async with Client(target, timeout_s=wanted.timeout, clock=clock) as client:
        for number in range(wanted.warmup):
            shape = Shape(words, 1)
            result = Result(number, 0, clock.now_ns())
            span, headers = sender.begin(result, PATIENT, offered=0.0)
            order = Order(target.body(shape, -1 - number), {**target.headers, **headers}, PATIENT)
            await client.send(order, result)
            sender.end(span, result)
            if result.outcome == "error" and not result.status:
                raise UserError(f"nothing answers at {target.url} ({result.error}): start the service, or name another")
            if result.input_tokens:
                ratio = target.prompts.tokens_per_word * result.input_tokens / words
                target = replace(target, prompts=replace(target.prompts, tokens_per_word=max(ratio, 0.1)))
    return target
