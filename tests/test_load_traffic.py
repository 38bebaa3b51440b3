"""Traffic is what was asked for: arrivals, lengths and prefixes, from distributions and from traces, by a seed."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from tailbudget.app.load import traces
from tailbudget.app.load.arrivals import drawn, replayed
from tailbudget.app.load.behaviour import PATIENT, Behaviour
from tailbudget.app.load.plan import Traffic
from tailbudget.app.load.prompts import Prompts
from tailbudget.app.load.shapes import Lengths, lengths
from tailbudget.app.load.traces import Shape
from tailbudget.instrument.errors import UserError

from .load_support import traffic


@pytest.mark.parametrize(("kind", "cv", "wanted"), [("poisson", 1.0, 1.0), ("gamma", 3.0, 3.0), ("steady", 1.0, 0.0)])
def test_arrivals_have_their_rate_and_burstiness(kind: str, cv: float, wanted: float) -> None:
    times_s = np.fromiter(itertools.islice(drawn(kind, rate=20, cv=cv, seed=7), 40_000), float)
    gaps_s = np.diff(times_s)
    assert gaps_s.mean() == pytest.approx(1 / 20, rel=0.05)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(wanted, rel=0.1, abs=1e-6)


def test_a_replay_has_the_traces_own_instants_or_their_pattern_at_another_rate() -> None:
    trace = traces.read("azure-conversation")
    own = list(itertools.islice(replayed(trace), 100))
    assert own == [one.at_s for one in trace[:100]]
    fast = list(itertools.islice(replayed(trace, rate=50), 2 * len(trace)))
    assert len(fast) / fast[-1] == pytest.approx(50, rel=0.01)
    assert fast == sorted(fast)
    assert np.corrcoef(own, fast[:100])[0, 1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "median", "low", "high"),
    [("256", 256, 256, 256), ("uniform(10,20)", 15, 10, 20), ("lognormal(100,0.5)", 100, 5, 2000),
     ("normal(200,10)", 200, 100, 300)],
)  # fmt: skip
def test_lengths_follow_their_distribution(text: str, median: float, low: float, high: float) -> None:
    shapes = Lengths(lengths(text), lengths(text)).shapes(5)
    drawn_tokens = [next(shapes).input_tokens for _ in range(4000)]
    assert np.median(drawn_tokens) == pytest.approx(median, rel=0.05)
    assert low <= min(drawn_tokens) <= max(drawn_tokens) <= high


@pytest.mark.parametrize("text", ["many", "normal(1)", "pareto(1,2)", "-5", ""])
def test_a_length_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="lognormal"):
        lengths(text)


@pytest.mark.parametrize("name", traces.SHIPPED)
def test_every_shipped_trace_is_read_and_has_a_licence(name: str) -> None:
    found = traces.read(name)
    assert len(found) > 200
    assert all(one.shape.input_tokens > 0 for one in found)
    times_s = [one.at_s for one in found if one.at_s is not None]
    assert len(times_s) in (0, len(found))
    assert times_s == sorted(times_s)
    assert traces.SHIPPED[name] in (traces.SAMPLES / "LICENSE.md").read_text(encoding="utf-8")


def test_published_files_are_read_as_they_are(tmp_path: Path) -> None:
    azure = tmp_path / "azure.csv"
    azure.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
                     "2023-11-16 18:15:50.9951690,396,109\n")  # fmt: skip
    assert [(round(one.at_s or 0, 3), one.shape) for one in traces.read(str(azure))] == [
        (0.0, Shape(374, 44)),
        (4.315, Shape(396, 109)),
    ]
    mooncake = tmp_path / "trace.jsonl"
    mooncake.write_text('{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n')
    assert traces.read(str(mooncake)) == [traces.Traced(0.0, Shape(6955, 52, (46, 47)))]
    etalon = tmp_path / "lengths.csv"
    etalon.write_text("num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n74,918,992,0.08\n")
    assert traces.read(str(etalon)) == [traces.Traced(None, Shape(74, 918))]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "offset_s,context_tokens,generated_tokens\nx,1,2\n"])
def test_a_file_that_is_no_trace_is_refused_with_the_forms_that_are(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=r"cannot be read.*TIMESTAMP"):
        traces.read(str(tmp_path / "t.csv"))
    with pytest.raises(UserError, match="azure-conversation"):
        traces.read("nothing")


def test_prompts_share_what_their_blocks_share_and_nothing_else() -> None:
    prompts = Prompts(block_tokens=100)
    first, second = prompts.text(Shape(350, 1, (1, 2, 3, 4)), 1), prompts.text(Shape(350, 1, (1, 2, 9, 8)), 2)
    words = [text.split() for text in (first, second)]
    assert [len(one) for one in words] == [350, 350]
    assert words[0][:200] == words[1][:200]
    assert sum(a == b for a, b in zip(words[0][200:], words[1][200:], strict=True)) < 30
    plain = [prompts.text(Shape(50, 1), number) for number in (1, 2)]
    assert plain[0] != plain[1]


def test_a_prompt_has_the_tokens_asked_for_by_the_tokenizer_that_was_measured() -> None:
    text = Prompts(512, shared_tokens=40, tokens_per_word=2.0).text(Shape(100, 1), 3)
    assert len(text.split()) == 50
    assert Prompts(512, shared_tokens=40, tokens_per_word=2.0).text(Shape(100, 1), 4).split()[:20] == text.split()[:20]


def test_a_scaled_trace_keeps_which_prompts_share_how_much() -> None:
    trace = traces.read("mooncake")
    small = Lengths(lengths("1"), lengths("1"), trace, scale=0.02)
    assert small.block_tokens == 10
    shapes = [shape for shape, _ in zip(small.shapes(1), trace, strict=False)]
    assert [shape.blocks for shape in shapes] == [one.shape.blocks for one in trace]
    assert shapes[0].input_tokens == round(trace[0].shape.input_tokens * 0.02)


def test_the_same_seed_sends_the_same_and_another_does_not() -> None:
    def plan(seed: int) -> list[object]:
        return list(itertools.islice(traffic("lognormal(50,1)", seed=seed, tenants=("a", "b")).at_rate(5.0), 50))

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_a_crowd_has_its_shares_and_its_bursts() -> None:
    noisy = Behaviour(share=0.1, tenant="noisy", burst=5, longer=2.0)
    asked = Traffic(Lengths(lengths("100"), lengths("3")), crowd=[noisy], tenants=("calm",))
    sent = list(itertools.islice(asked.at_rate(10.0), 3000))
    theirs = [one for one in sent if one.tenant == "noisy"]
    assert len(theirs) / len(sent) == pytest.approx(0.5 / 1.4, rel=0.15)
    assert all(one.shape.input_tokens == 200 for one in theirs)
    assert all(one.behaviour is PATIENT and one.tenant == "calm" for one in sent if one.tenant != "noisy")
    instants = [one.at_s for one in theirs]
    assert max(instants.count(at_s) for at_s in set(instants[:50])) >= 5
