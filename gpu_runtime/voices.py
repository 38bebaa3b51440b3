"""What belongs to one answer while it is computed: how its tokens are chosen, its text, its guesses."""

from dataclasses import dataclass, field

from torch import Tensor

from .answer import Answer
from .sampling import Chosen, Sampler
from .scheduler import Generation, Work
from .speculate import Drafter
from .tokenizer import TextTokenizer


@dataclass(frozen=True)
class Voice:
    """The state of one answer that no other shares."""

    sampler: Sampler
    answer: Answer
    unsent: list[Chosen] = field(default_factory=list)
    drafter: Drafter = field(default_factory=Drafter)

    @classmethod
    def of(cls, generation: Generation, tokenizer: TextTokenizer) -> "Voice":
        """Return the voice of an answer that begins."""
        params = generation.params
        sampler = Sampler(params, prompt=generation.prompt, ends=tokenizer.end_ids)
        return cls(sampler, Answer(tokenizer, params))

    def draft(self, generation: Generation, most: int) -> tuple[int, ...]:
        """Return up to `most` guesses of what follows, none where guessing pauses."""
        return self.drafter.draft(generation.tokens(0, generation.length), most) if most > 0 else ()

    def chosen(self, logits: Tensor) -> int:
        """Return the next token by its logits [vocabulary]; what is to be reported of it waits to be sent."""
        token = self.sampler.choose(logits)
        if report := self.sampler.report(token, logits):
            self.unsent.append(report)
        return token

    def sent(self) -> tuple[Chosen, ...]:
        """Return what no delta carried yet, once."""
        chosen = tuple(self.unsent)
        self.unsent.clear()
        return chosen


def followers(generation: Generation) -> list[Generation]:
    """Return those that begin once this one has its first token: none but for the first of several siblings."""
    return generation.siblings[1:] if generation.siblings and generation is generation.siblings[0] else []


def resumed(generation: Generation, now_ns: int) -> None:
    """Book the time since a generation gave its pages up, if it did."""
    if generation.preempted_at_ns is not None:
        generation.preempted_ns += now_ns - generation.preempted_at_ns
        generation.preempted_at_ns = None


def pending(item: Work) -> list[int]:
    """Return the tokens that a step computes of a generation, guesses last."""
    return [*item.generation.tokens(item.generation.computed, item.count), *item.draft]
