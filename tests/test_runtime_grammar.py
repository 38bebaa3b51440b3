"""An answer that is held to a JSON schema is valid, whatever it shares its batch, its pages and its guesses with."""

import json
import random
from functools import cache
from typing import Any

import jsonschema
import pytest
import torch

from tailbudget.gpu_runtime.grammar import Constraint, Grammar, GrammarError, Grammars
from tailbudget.gpu_runtime.scheduler import Generation
from tests.runtime_support import Bench, engine, on_devices, page_tokens, tiny_model

#: Each ends by itself within 300 of the tiny model's tokens, which would rather write words than quotes.
SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {
        "$defs": {
            "leaf": {
                "type": "object",
                "properties": {"v": {"type": "null"}},
                "required": ["v"],
                "additionalProperties": False,
            }
        },
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/leaf"}, "name": {"type": "string", "maxLength": 9}},
        "required": ["left", "name"],
        "additionalProperties": False,
    },
    {"anyOf": [{"const": "yes"}, {"const": {"no": [1, "größer 🙂"]}}]},
    {"type": "string", "pattern": "^[0-9]{4}-[01][0-9]$"},
]


@cache
def _grammars() -> Grammars:
    return Grammars(tiny_model()[1])


@cache
def _grammar(index: int) -> Grammar:
    return _grammars().compile(SCHEMAS[index])


def _valid(text: str, index: int) -> bool:
    jsonschema.validate(json.loads(text), SCHEMAS[index])
    return True


def _ask(bench: Bench, index: int, **params: Any) -> Generation:
    return bench.submit("The river runs", **{"max_tokens": 300, "grammar": _grammar(index), **params})


@on_devices
@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("index", range(len(SCHEMAS)))
def test_an_answer_is_valid_and_ends_by_itself(index: int, temperature: float, device: str) -> None:
    with engine(device=device) as bench:
        generation = _ask(bench, index, temperature=temperature, seed=index, ignore_eos=True)
        assert _valid(bench.finish(generation), index)
        assert generation.finish == "stop"


@on_devices
def test_answers_of_a_batch_are_those_of_runs_alone_under_preemption_and_speculation(device: str) -> None:
    size = page_tokens(device)
    asked = [(index % len(SCHEMAS), {"temperature": 1.0, "seed": index}) for index in range(10)]
    with engine(device=device, max_running=1, prefix_cache=False) as bench:
        alone = [_ask(bench, index, **params) for index, params in asked]
        texts = [bench.finish(generation) for generation in alone]
    # Pages for the longest alone and little more.
    pages = max(generation.length for generation in alone) // size + 3
    context = pages * size
    short: dict[str, Any] = {"max_context": context, "kv_pages": context // 16, "prefill_chunk": 5}
    with engine(device=device, max_running=6, speculate=4, **short) as bench:
        sent = [_ask(bench, index, max_tokens=context - 20, **params) for index, params in asked]
        repeating: dict[str, Any] = {"max_tokens": 3 * size - 8, "logit_bias": ((40, 9.0), (41, 9.0))}
        free = [bench.submit([40, 41] * 4, **repeating) for _ in range(2)]
        assert [bench.finish(generation) for generation in sent] == texts
        assert all(bench.finish(generation) for generation in free)
        assert bench.engine.counts.preemptions > 0
        assert bench.engine.counts.drafts > 0
        assert bench.engine.kv_used == 0
    assert all(_valid(text, index) for text, (index, _) in zip(texts, asked, strict=True))


@on_devices
def test_a_stop_string_and_the_token_limit_cut_it_short_as_they_cut_any_text(device: str) -> None:
    with engine(device=device) as bench:
        whole = bench.finish(_ask(bench, 3))
        stopped, short = _ask(bench, 3, stop=("e",)), _ask(bench, 3, max_tokens=2)
        assert whole.startswith(bench.finish(stopped) + "e")
        assert stopped.finish == "stop"
        assert whole.startswith(bench.finish(short))
        assert (short.finish, len(short.output)) == ("length", 2)


@on_devices
def test_nothing_that_is_not_asked_for_changes_where_no_schema_is(device: str) -> None:
    with engine(device=device, max_running=4) as bench:
        free = bench.submit("June", max_tokens=30)
        text = bench.finish(free)
        again, _ = bench.submit("June", max_tokens=30), _ask(bench, 0)
        assert bench.finish(again) == text


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "objekt"}, "Invalid type: objekt"),
        ({"if": {"type": "string"}}, 'Unimplemented keys: \\["if"\\]'),
        ({"$ref": "#/nope"}, "Pointer '/nope' does not exist"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength \\(5\\) is greater"),
    ],
)
def test_a_schema_that_cannot_be_held_to_says_why(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        _grammars().compile(schema)


class _Broken(Constraint):
    def allowed(self, logits: torch.Tensor) -> torch.Tensor:
        raise GrammarError("too complex")


@on_devices
def test_a_grammar_that_breaks_off_ends_its_own_request_and_leaves_the_others_as_they_are(device: str) -> None:
    class Breaks(Grammar):
        def start(self) -> Constraint:
            return _Broken(self._matcher)

    chance = random.Random(1)
    prompts = [[chance.randint(3, 499) for _ in range(9)] for _ in range(3)]
    with engine(device=device) as bench:
        seeds = [bench.submit(prompt, temperature=1.0, seed=7, max_tokens=20) for prompt in prompts]
        alone = [bench.finish(generation) for generation in seeds]
    with engine(device=device, prefill_chunk=100) as bench:
        first = bench.submit(prompts[0], temperature=1.0, seed=7, max_tokens=20)
        bad = bench.submit(prompts[1], max_tokens=20, grammar=Breaks(_grammar(0)._matcher))
        last = bench.submit(prompts[2], temperature=1.0, seed=7, max_tokens=20)
        bench.finish(bad)
        assert (bad.end, bad.error) == ("error", "GrammarError in the engine")
        assert [bench.finish(first), bench.finish(last)] == [alone[0], alone[2]]
        assert bench.engine.kv_used == 0


def test_tokens_of_an_answer_are_the_ones_that_its_grammar_allows() -> None:
    _, tokenizer = tiny_model()
    constraint = _grammar(1).start()
    logits = torch.zeros(tokenizer.size)
    allowed = {token for token in range(tokenizer.size) if constraint.allowed(logits)[token] == 0}
    assert {tokenizer.bytes_of(token)[:1] for token in allowed} == {b"["}
    with pytest.raises(GrammarError, match="broke off"):
        constraint.advance(tokenizer.encode("x")[0])
