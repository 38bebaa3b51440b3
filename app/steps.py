"""What a plan begins with: how long a step takes, as given or as an engine's samples say, and what was asked."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tailbudget.analytics.step_time import StepFit, step_fits
from tailbudget.analytics.window import Window
from tailbudget.analytics.worksheet import Demand, demands
from tailbudget.gpu_runtime.simulator import StepTime
from tailbudget.instrument.errors import UserError

from .reading import open_reader

SAY = "say it with --step BASE,STREAM,PROMPT in milliseconds (a step, more a stream, more a prompt token)"


def step_time(
    given: tuple[float, float, float] | None,
    *,
    instance: str | None,
    since: timedelta,
    api: str | None,
    data: Path | None,
) -> StepTime:
    """Return what was given, else the fit of the engine `instance`, the only one if None. UserError without one."""
    if given is None:
        now = datetime.now(UTC)
        with open_reader(api=api, data=data) as reader:
            fit = chosen(step_fits(reader, Window(now - since, now)), instance)
        given = (fit.base_ms, fit.stream_ms, fit.prompt_token_ms)
    base_ms, stream_ms, prompt_token_ms = given
    return StepTime(base_ms, stream_ms=stream_ms, prompt_token_ms=prompt_token_ms)


def chosen(fits: list[StepFit], instance: str | None) -> StepFit:
    """Return the fit of `instance`, the only one if None; UserError names those that are there."""
    found = [fit for fit in fits if instance in (None, fit.instance)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(repr(fit.instance) for fit in fits)
    if not fits:
        raise UserError(f"no engine told its steps in that time: widen it with --since, or {SAY}")
    raise UserError(f"engines that told their steps are {names}: name one of them with --instance, or {SAY}")


def stored_demands(*, instance: str | None, since: timedelta, api: str | None, data: Path | None) -> list[Demand]:
    """Return what each region asked; UserError where no call with token counts is stored."""
    now = datetime.now(UTC)
    with open_reader(api=api, data=data) as reader:
        found = demands(reader, Window(now - since, now), instance=instance)
    if not found:
        where = f" of {instance!r}" if instance else ""
        raise UserError(
            f"no call{where} with token counts is stored, load tests aside: widen it with --since, "
            "or give --mix and --peak"
        )
    return found
