"""Every figure in docs/definitions.md is what its formula gives for the stream shown there."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest

from tailbudget.instrument.gaps import Gaps

from .spans import Row, Trace, assemble, database, one
from .test_assemble_requests import CALL

PAGE = Path(__file__).resolve().parents[1] / "docs" / "definitions.md"
SCHEDULED_EARLIER_MS = 40.0


@dataclass(frozen=True)
class Chunk:
    """One row of the first table."""

    at_ms: float
    kind: str
    tokens: int


def table(marker: str) -> list[list[str]]:
    """Return the cells of the table below `<!-- marker -->`, the header first."""
    text = PAGE.read_text(encoding="utf-8").partition(f"<!-- {marker} -->\n")[2].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [lines[0], *lines[2:]]


STREAM = [Chunk(float(at), kind, int(tokens)) for at, kind, tokens in table("stream")[1:]]
TOKENS = sum(chunk.tokens for chunk in STREAM)
#: With `choices`: what vLLM's client takes for a chunk. With content: what the others do.
CHOICES = [chunk.at_ms for chunk in STREAM if chunk.kind in ("role", "content", "finish")]
CONTENT = [chunk.at_ms for chunk in STREAM if chunk.kind == "content"]
END_MS = STREAM[-1].at_ms


def gaps(arrivals: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(arrivals)]


def vllm() -> Mapping[str, float]:
    """Return what `vllm bench serve --backend openai-chat` reports of one request."""
    first, end = CHOICES[0], CHOICES[-1]
    return {
        "time to first token, ms": first,
        "end-to-end, ms": end,
        "time per output token, ms": (end - first) / (TOKENS - 1),
        "inter-token latency, mean ms": mean(gaps(CHOICES)),
    }


def aiperf() -> Mapping[str, float]:
    """Return what AIPerf reports of one request, without per-chunk usage."""
    first, end = CONTENT[0], CONTENT[-1]
    return {
        "time to first token, ms": first,
        "end-to-end, ms": end,
        "inter-token latency, mean ms": (end - first) / (TOKENS - 1),
        "inter-chunk latency, mean ms": mean(gaps(CONTENT)),
    }


def guidellm() -> Mapping[str, float]:
    """Return what guidellm reports of one request."""
    first, last = CONTENT[0], CONTENT[-1]
    return {
        "time to first token, ms": first,
        "end-to-end, ms": END_MS,
        "time per output token, ms": last / TOKENS,
        "inter-token latency, mean ms": (last - first) / (TOKENS - 1),
    }


def mlperf() -> Mapping[str, float]:
    """Return what LoadGen reports of one sample in the server scenario."""
    first, end = CONTENT[0] + SCHEDULED_EARLIER_MS, END_MS + SCHEDULED_EARLIER_MS
    return {
        "time to first token, ms": first,
        "end-to-end, ms": end,
        "time per output token, ms": (end - first) / (TOKENS - 1),
    }


def ours() -> Mapping[str, float]:
    """Return what the tables say once such a call has landed."""
    call = landed()
    arrivals = Gaps()
    arrivals.feed([round(at_ms * 1e6) for at_ms in CONTENT])
    return {
        "time to first token, ms": call["ttft_ms"],
        "end-to-end, ms": call["total_ms"],
        "time per output token, ms": call["tpot_ms"],
        "longest gap, ms": arrivals.max_ns / 1e6,
        "reader's wait, ms": arrivals.stall_ns / 1e6,
    }


def landed() -> Row:
    attrs = {
        **CALL,
        "gen_ai.response.time_to_first_chunk": STREAM[0].at_ms / 1e3,
        "slo.time_to_first_token": CONTENT[0] / 1e3,
        "slo.time_to_final": CONTENT[-1] / 1e3,
        "slo.stream.end": "complete",
        "gen_ai.usage.output_tokens": TOKENS,
    }
    trace = Trace()
    trace.add("chat m", 0, END_MS, kind="CLIENT", attrs=attrs)
    connection = database()
    assemble(connection, trace.spans)
    return one(connection, "from calls")


TOOLS: dict[str, Callable[[], Mapping[str, float]]] = {
    "vLLM bench": vllm, "AIPerf": aiperf, "guidellm": guidellm, "MLPerf": mlperf, "tailbudget": ours,
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_the_figures_of_the_page_are_what_the_formulas_give(tool: str) -> None:
    header, *lines = table("figures")
    column = header.index(tool)
    shown = {line[0]: line[column] for line in lines}
    computed = TOOLS[tool]()
    assert {name: f"{computed[name]:.1f}" if name in computed else "-" for name in shown} == shown
    assert computed.keys() <= shown.keys()


def test_every_tool_of_the_page_is_computed_and_names_its_source() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert table("figures")[0] == ["figure", *TOOLS]
    for repository in ("vllm-project/vllm", "ai-dynamo/aiperf", "vllm-project/guidellm", "mlcommons/inference"):
        assert re.search(rf"{repository}: `[\w/.]+`", page), repository


def test_the_page_counts_its_own_stream_right() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert f"{len(CONTENT)} chunks and {TOKENS} tokens" in page
    assert f"({TOKENS} here)" in page
    assert f"scheduled {SCHEDULED_EARLIER_MS:.0f} ms earlier" in page


def test_a_role_only_chunk_is_no_first_token_of_ours() -> None:
    call = landed()
    assert STREAM[0].tokens == 0
    assert call["ttft_ms"] == CONTENT[0] > STREAM[0].at_ms
    assert call["output_tokens"] == TOKENS != len(CONTENT)
