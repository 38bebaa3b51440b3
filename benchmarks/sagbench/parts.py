"""The real parts that labelled series are made of: lengths, arrivals, noise of providers, decode time against batch."""

import csv
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Folder -> what is taken from it.
FOLDERS: Final = {
    "azure_llm_2023": "tokens an answer has (Azure, 2023)",
    "servegen": "requests a second over 14 days (ServeGen)",
    "llmperf_leaderboard": "time per token of single requests by provider (LLMPerf)",
    "splitwise_perf": "decode step against batch (Splitwise)",
}
RATE_WINDOW_S: Final = 600  # ServeGen gives a rate and a variation for each of these
MIN_TOKENS: Final = 20  # fewer say nothing of a pace


@dataclass(frozen=True)
class Provider:
    """How a provider's time per token differs from request to request, in their order."""

    name: str
    token_s: float  # median
    noise: Floats  # e-folds above the median, one a request


@dataclass(frozen=True)
class Engine:
    """How long a decode step takes at each batch size."""

    name: str
    batch: Floats
    step_s: Floats


@dataclass(frozen=True)
class Parts:
    """All of it."""

    lengths: dict[str, Floats]  # tokens of answers, by workload
    arrivals: list[Floats]  # a client each: rows of requests a second and coefficient of variation
    providers: list[Provider]
    engines: list[Engine]


def load(folder: Path) -> Parts:
    """Read the parts below `folder`; raises FileNotFoundError that names what is missing."""
    missing = [f"{name}: {what}" for name, what in FOLDERS.items() if not (folder / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {'; '.join(missing)}: name the folder that has it as the first argument"
        )
    return Parts(
        lengths={
            name: _lengths(folder / f"azure_llm_2023/AzureLLMInferenceTrace_{name}.csv") for name in ("conv", "code")
        },
        arrivals=[_arrivals(path) for path in sorted((folder / "servegen").glob("*.csv"))],
        providers=[_provider(path) for path in sorted((folder / "llmperf_leaderboard").glob("*.json"))],
        engines=_engines(folder / "splitwise_perf/perf_model.csv"),
    )


def _lengths(path: Path) -> Floats:
    with path.open(newline="") as lines:
        return np.array([float(row["GeneratedTokens"]) for row in csv.DictReader(lines)])


def _arrivals(path: Path) -> Floats:
    with path.open(newline="") as lines:
        return np.array([[float(row[1]), float(row[2])] for row in csv.reader(lines)])


def _provider(path: Path) -> Provider:
    rows = json.loads(path.read_text())
    token_s = np.array(
        [
            (row["end_to_end_latency_s"] - row["ttft_s"]) / (row["number_output_tokens"] - 1)
            for row in rows
            if row["error_code"] is None and row["number_output_tokens"] > MIN_TOKENS
        ]
    )
    token_s = token_s[token_s > 0]
    median = float(np.median(token_s))
    return Provider(path.stem, median, np.log(token_s / median))


def _engines(path: Path) -> list[Engine]:
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            if not row["hardware"].endswith("pcap"):  # their decode times equal those without a cap
                name = f"{row['model']} {row['hardware']} tp{row['tensor_parallel']}"
                found[name][float(row["batch_size"])].append(float(row["token_time"]) / 1000)
    engines = []
    for name, times in found.items():
        batch = np.array(sorted(times))
        step_s = np.array([np.median(times[size]) for size in batch])
        engines.append(Engine(name, batch, np.maximum.accumulate(step_s)))  # a larger batch is never faster
    return engines
