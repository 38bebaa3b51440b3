"""How often equal things are called different, and a 15 % slower p95 is called so, on real requests in their order.

`python benchmarks/compare.py [FOLDER] [COMPARISONS]` takes the lengths of Azure's conversation and code requests in the
order in which they came, the time per token of providers (LLMPerf), and cuts 4,000 neighbours at random into two
versions of 2,000 that serve side by side: once as they are, once with one of them 15 % slower.
"""

import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
from machine import describe
from sagbench import parts

from tailbudget.analytics.resample import Sample, percentile_ratio

DEFAULT: Final = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZE: Final = 2000
SLOWER: Final = 1.15
BLOCK: Final = 30  # requests whose noise stays in its order


def latencies_ms(real: parts.Parts, workload: str, rng: np.random.Generator) -> parts.Floats:
    """Return what each request of an hour took: a first token, then its tokens at a provider's pace."""
    tokens, provider = real.lengths[workload], real.providers[rng.integers(len(real.providers))]
    starts = rng.integers(0, len(provider.noise), len(tokens) // BLOCK + 1)
    noise = provider.noise[(starts[:, None] + np.arange(BLOCK)).ravel()[: len(tokens)] % len(provider.noise)]
    return np.asarray(300 + 1000 * tokens * provider.token_s * np.exp(noise))


def called(real: parts.Parts, workload: str, rng: np.random.Generator) -> tuple[bool, bool]:
    """Return whether equals were called different, and whether slower ones were called so."""
    series = latencies_ms(real, workload, rng)
    first = rng.integers(0, len(series) - 2 * SIZE)
    values, at = series[first : first + 2 * SIZE], np.arange(2.0 * SIZE)
    side = rng.permutation(2 * SIZE) < SIZE
    a = Sample(at[side], values[side])
    found = []
    for factor in (1.0, SLOWER):
        difference = percentile_ratio(a, Sample(at[~side], values[~side] * factor), 0.95, paired=True)
        found.append(difference is not None and difference.changed)
    return found[0], found[1]


def main(folder: Path, comparisons: int) -> None:
    """Print both shares for each workload and for all."""
    try:
        real = parts.load(folder)
    except FileNotFoundError as error:
        print(error)
        return
    print(describe())
    began, found = time.process_time(), {}
    for workload in real.lengths:
        rng = np.random.default_rng(7)
        found[workload] = np.array([called(real, workload, rng) for _ in range(comparisons // len(real.lengths))])
    for workload, calls in (*found.items(), ("all", np.concatenate(list(found.values())))):
        equal, slower = calls.mean(axis=0)
        shares = f"equals called different {equal:.1%}, 15 % slower called {slower:.1%}"
        print(f"{workload:5} {len(calls):5,} comparisons: {shares}")
    print(
        f"{1000 * (time.process_time() - began) / (2 * comparisons):.0f} CPU-ms a comparison of 2 x {SIZE:,} requests"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT, int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
