"""When tokens come slower than load and the recent past explain: the detector behind `alerts`, pages and back-tests."""

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from tailbudget.instrument.errors import UserError

from .questions import ask, sql
from .reader import Reader

REPACKED = "more tokens a chunk"
COLUMNS = ("series", "opened", "closed", "severity", "lcb", "cause")
#: Wide enough for any instant, and within what Python's datetime can hold.
BEGINNING, END = "0001-01-01 00:00:00+00", "9999-12-31 00:00:00+00"


@dataclass(frozen=True, slots=True)
class SagSettings:
    """Sizes of the detector's windows, in seconds, and its threshold.

    The defaults were set on the even seeds of `benchmarks/sag.py`, which prints how often they hit and err on the odd
    ones. `threshold` is in e-folds: 0.12 is 13 % slower, by the lower bound.
    """

    bucket_stream_s: float = 5  # stream-seconds that make one comparable bucket
    baseline_s: float = 3600  # the past that is compared with
    gap_s: float = 300  # its most recent part, left out so that a sag does not hide itself
    window_s: float = 300  # over which the slow-down is averaged; a large one shows in the last 40 % of it
    min_buckets: int = 15  # that the baseline must hold
    threshold: float = 0.12

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise UserError(f"sag setting {field.name} is {value!r}: expected a number above 0")

    @classmethod
    def parse(cls, text: str) -> "SagSettings":
        """Read `bucket,baseline,gap,window,min_buckets[,threshold]`; the rest by default. Raises UserError."""
        names = [field.name for field in dataclasses.fields(cls)]
        parts = text.split(",") if text.strip() else []
        try:
            values: dict[str, Any] = {name: float(part) for name, part in zip(names, parts, strict=False)}
        except ValueError:
            values = {}
        if len(values) != len(parts):
            raise UserError(
                f"sag settings {text!r}: expected up to {len(names)} numbers, {','.join(names)}, as in 1,240,30,30,15"
            )
        if "min_buckets" in values:
            values["min_buckets"] = int(values["min_buckets"])
        return cls(**values)

    @property
    def horizon_s(self) -> float:
        """Seconds of bins that the newest judgement rests on: three baselines, the window, the hour they begin in.

        The spread of the last baseline is one of residuals, each against a baseline of its own, from which is kept out
        what was slow against a third.
        """
        return 3 * (self.baseline_s + self.gap_s) + self.window_s + 3600


DEFAULTS = SagSettings()


def sag(reader: Reader, bins: str = "decode_rate", settings: SagSettings = DEFAULTS) -> pa.Table:
    """Return one row an alarm: series, opened, closed (null while open), severity, lcb, cause.

    `bins` is a table or view with series, t (start of 10 s), tokens, active_stream_s. `opened` is the end of the last
    bin that the decision needed; no alarm depends on a later bin. severity is page from 1.5 times slower on, else
    ticket; lcb is the lower confidence bound of the slow-down in e-folds, at its worst so far; cause is engine when
    each token got slower at any load, contention when each further stream costs more, load when that came with half as
    many streams again, else unknown. Raises QueryError.
    """
    return alarms(reader, bins=bins, settings=settings).select(list(COLUMNS))


def alarms(
    reader: Reader,
    *,
    bins: str = "decode_rate",
    settings: SagSettings = DEFAULTS,
    since: datetime | str = BEGINNING,
    until: datetime | str = END,
    part: int = 0,
    parts: int = 1,
) -> pa.Table:
    """Return the rows of `sag` of the bins that start in [since, until), with slowdown and first_slowdown.

    slowdown is how many times slower at its worst so far, first_slowdown when the alarm opened. Of several `parts`,
    into which series fall by their hash, only one is judged.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*", bins):
        raise UserError(f"bins {bins!r}: expected the name of a table or view with series, t, tokens, active_stream_s")
    query = sql("sag").replace("from decode_rate", f"from {bins}")
    params = {**dataclasses.asdict(settings), "from_ts": since, "to_ts": until, "part": part, "parts": parts}
    return reader.query(query, params)


def likely_cause(reader: Reader, series: str, *, opened: datetime, settings: SagSettings = DEFAULTS) -> str | None:
    """Return what GPUs, calls and the engine show: slow reader, preemption, GPU power cap, GPU slowdown or GPU clock.

    Of a series that counts chunks it may be REPACKED: each holds more tokens than before, so that nothing is slower.

    None when they show nothing: then what `sag` reads from the time per token against load is all that is known.
    """
    windows = {"window_s": settings.window_s, "baseline_s": settings.baseline_s, "gap_s": settings.gap_s}
    found = ask(reader, "sag_cause", {"series": series, "opened": opened, **windows})["cause"].to_pylist()
    return str(found[0]) if found else None


def scopes(reader: Reader, sagging: Collection[str], *, since: datetime) -> dict[str, str]:
    """Return, for each series that does not sag alone, what sags with it: `provider openai (5 of 6 series)`.

    That is the coarsest of provider, model and instance of whose series with bins since `since` at least 70 %, and at
    least two, are in `sagging`.
    """
    rows = ask(reader, "sag_scopes", {"sagging": sorted(sagging), "since": since}).to_pylist()
    return {row["series"]: f"{row['scope']} ({row['sagging']} of {row['members']} series)" for row in rows}
