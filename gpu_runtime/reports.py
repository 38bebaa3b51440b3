"""What the engine tells: text as it comes, to its readers; times and counts, to whoever watches."""

from dataclasses import dataclass
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


@dataclass
class Counts:
    """Totals since the engine started. Queries and hits are prompt tokens looked up in the prefix cache, and found."""

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
