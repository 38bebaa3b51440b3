"""What the engine tells: text as it comes, to its readers; times and counts, to whoever watches."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from .sampling import Chosen
from .scheduler import Generation


@dataclass(frozen=True)
class Delta:
    """What one step added to one generation; the last one of a generation has `done`."""

    generation: Generation
    text: str
    done: bool
    #: Tokens of the answer so far, those whose characters are not whole yet included.
    tokens: int = 0
    #: The tokens since the delta before, where their log probabilities were asked for.
    chosen: tuple[Chosen, ...] = ()


class Observer(Protocol):
    """Who is told of the engine's work, in its thread."""

    def decoding(self, change: int) -> None:
        """Take note of `change` more (or fewer) decoding streams."""

    def step(self, *, tokens: int, active_ns: int) -> None:
        """Take note of a step: tokens decoded after first ones, and nanoseconds summed over the decoding streams."""

    def finished(self, generation: Generation) -> None:
        """Take note of a generation that is over, however it ended."""


#: Steps are counted by how many tokens they computed, at most so many; vLLM's buckets.
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass
class Counts:
    """Totals since the engine started. Queries and hits are prompt tokens looked up in the prefix cache, and found.

    `checks`: steps that checked guesses of a generation. `accepted_at`: right guesses by their place, from 0 on.
    `sizes`: steps by the first of STEP_TOKENS that is no less than theirs.
    """

    steps: int = 0
    step_ns: int = 0
    step_tokens: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    drafts: int = 0
    accepted: int = 0
    checks: int = 0
    accepted_at: Counter[int] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=lambda: [0] * (len(STEP_TOKENS) + 1))

    def step(self, *, tokens: int, step_ns: int) -> None:
        """Count a step."""
        self.steps += 1
        self.step_ns += step_ns
        self.step_tokens += tokens
        self.sizes[bisect_left(STEP_TOKENS, tokens)] += 1

    def checked(self, *, drafted: int, accepted: int) -> None:
        """Count a check of guesses."""
        self.checks += 1
        self.drafts += drafted
        self.accepted += accepted
        self.accepted_at.update(range(accepted))
