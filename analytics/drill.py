"""Which values of which dimensions bad requests have more often than the rest, with the false discoveries kept few."""

import math
from dataclasses import dataclass
from typing import Final

from .questions import ask
from .reader import Reader
from .window import Box, Window

DIMENSIONS: Final = ("model", "tenant", "route", "version", "region", "prompt_bucket", "instance")
#: Expected share of false ones among all that are called, at most.
FALSE_DISCOVERIES: Final = 0.05


@dataclass(frozen=True)
class Finding:
    """One value: `bad` of its `n` requests were, against `rest_share` of all others.

    `extra` is how many more are bad than at that share. `p_value` is Fisher's, one-sided; `q_value` is what Benjamini
    and Hochberg make of it, and `found` whether it is small enough.
    """

    dimension: str
    value: str
    n: int
    bad: int
    share: float
    rest_share: float
    extra: float
    p_value: float
    q_value: float
    found: bool


def drill(
    reader: Reader, window: Window, *, slower_than_ms: float | None = None, box: Box | None = None
) -> list[Finding]:
    """Return every value of DIMENSIONS that the requests of `window` have, what is found first, most extra bad first.

    Bad are requests that failed, timed out, were dropped, shed or lost, and those over `slower_than_ms`, which defaults
    to each one's own budget; with `box` those inside it instead. Raises QueryError as the reader does.
    """
    chosen = box.params() if box else dict.fromkeys(("box_from_ts", "box_to_ts", "lo_ms", "hi_ms"))
    rows = ask(reader, "drill", {**window.params(), **chosen, "slower_than_ms": slower_than_ms}).to_pylist()
    # A value that all requests have tells nothing, and only costs the others certainty.
    rows = [row for row in rows if row["n"] < row["all_n"]]
    p_values = [fisher(row["bad"], row["n"], row["all_bad"], row["all_n"]) for row in rows]
    found = []
    for row, p_value, q_value in zip(rows, p_values, adjusted(p_values), strict=True):
        rest_share = (row["all_bad"] - row["bad"]) / (row["all_n"] - row["n"])
        found.append(
            Finding(
                dimension=row["dimension"],
                value=row["value"],
                n=row["n"],
                bad=row["bad"],
                share=row["bad"] / row["n"],
                rest_share=rest_share,
                extra=row["bad"] - row["n"] * rest_share,
                p_value=p_value,
                q_value=q_value,
                found=q_value <= FALSE_DISCOVERIES,
            )
        )
    return sorted(found, key=lambda one: (not one.found, -one.extra, one.dimension, one.value))


def fisher(hits: int, n: int, all_hits: int, all_n: int) -> float:
    """Return how probable at least `hits` are among `n` drawn of `all_n`, of which `all_hits` are hits."""
    total = _log_choose(all_n, n)
    most = min(n, all_hits)
    tail = sum(
        math.exp(_log_choose(all_hits, k) + _log_choose(all_n - all_hits, n - k) - total)
        for k in range(max(hits, n - (all_n - all_hits)), most + 1)
    )
    return min(tail, 1.0)


def adjusted(p_values: list[float]) -> list[float]:
    """Return q-values: the least share of false discoveries at which each would be called (Benjamini and Hochberg)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__, reverse=True)
    q_values, least = [1.0] * len(p_values), 1.0
    for behind, at in enumerate(order):
        least = min(least, p_values[at] * len(p_values) / (len(p_values) - behind))
        q_values[at] = least
    return q_values


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
