"""What an objective is: limits on the clocks of a request, a share of requests that must meet them, a window."""

from dataclasses import dataclass
from typing import Final, Literal

from tailbudget.instrument.vocabulary import STAGES

Method = Literal["occurrences", "timeslices", "ratio_timeslices"]

#: What a limit may be set on -> what it is.
CLOCKS: Final = {
    "total": "the whole request",
    "ttft": "first token",
    "usable": "first usable answer",
    "final": "last token",
    "tpot": "time per output token, of the slowest call",
}
#: `model` is queue, prefill and decode together; stages joined by + are limited by their sum.
COMPOSITES: Final = {"model": ("queue", "prefill", "decode")}
MEASURES: Final = (*CLOCKS, *COMPOSITES, *STAGES)
#: A budget may be kept apart for each value of one of these.
PARTS: Final = ("tenant", "model", "route", "service", "version", "region")
DAY_S: Final = 86_400


def stages_of(measure: str) -> tuple[str, ...]:
    """Return the stages whose time `measure` sums: none for a clock or for a word that is no measure."""
    stages = tuple(stage for word in measure.split("+") for stage in COMPOSITES.get(word, (word,)))
    return stages if set(stages) <= set(STAGES) and len(set(stages)) == len(stages) else ()


def is_measure(word: str) -> bool:
    """Whether a limit may be set on `word`: a clock, a stage, `model`, or stages joined by +."""
    return word in CLOCKS or bool(stages_of(word))


@dataclass(frozen=True, slots=True)
class Limit:
    """A request meets it when its `measure` is below `below_ms`, or equal to it where `inclusive`."""

    measure: str
    below_ms: float
    inclusive: bool = False

    def __str__(self) -> str:
        return f"{self.measure} {'<=' if self.inclusive else '<'} {_length(self.below_ms)}"


@dataclass(frozen=True, slots=True)
class Period:
    """The time over which a budget is spent: the last `days`, or the calendar's, as `month` or `week`."""

    days: int = 30
    calendar: str = ""
    zone: str = "UTC"

    def __str__(self) -> str:
        return self.calendar or f"{self.days}d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """At least `target` (0 to 1) of the requests that `where` names meet every limit and end well.

    `good`, where given, is an SQL condition that decides instead of limits and outcome. With `timeslices` it is slices
    of `slice_s` that are counted, each good when `slice_target` of its requests are; with `ratio_timeslices` the mean
    of their shares. An alert tells of itself once it has lasted `for_s`. `place` is file and line.
    """

    name: str
    target: float
    limits: tuple[Limit, ...] = ()
    where: str = ""
    good: str = ""
    per: str = ""
    period: Period = Period()
    method: Method = "occurrences"
    slice_s: int = 60
    slice_target: float = 0.0
    degraded_good: bool = False
    owner: str = ""
    runbook: str = ""
    degrade_first: str = ""
    notify: tuple[str, ...] = ()
    for_s: int = 0
    place: str = ""

    def __str__(self) -> str:
        limits = ", ".join(map(str, self.limits)) or self.good or "ends well"
        return f"{_percent(self.target)} of requests: {limits}"


def _percent(share: float) -> str:
    return f"{share * 100:.6g} %"


def _length(ms: float) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"
