"""How a request wants its tokens chosen, and where its answer ends."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .grammar import Grammar


@dataclass(frozen=True)
class SamplingParams:
    """`ignore_eos` goes on until `max_tokens`; before `min_tokens` no end token and no stop string counts.

    `logprobs`: how many alternatives to report, None for no report.

    `presence_penalty` and `frequency_penalty` count the answer's tokens, `repetition_penalty` the prompt's too.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    #: What holds the answer to a JSON schema.
    grammar: "Grammar | None" = None
