"""Words for prompts of a wanted length, of which what is to be shared is equal, and the rest is not."""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from .traces import Shape

WORDS: Final = tuple(
    "time request river answer morning question garden signal winter letter train number market window summer paper "  # noqa: SIM905
    "bridge engine island cloud record forest mirror button corner silver yellow simple change detail".split()
)


@lru_cache(maxsize=4096)
def block(seed: int, words: int) -> str:
    """Return `words` words, the same for the same seed."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))  # noqa: S311 - prompts are no secret


@dataclass(frozen=True)
class Prompts:
    """Makes prompts; `tokens_per_word` is the tokenizer's, measured by a first request, else a guess."""

    block_tokens: int
    shared_tokens: int = 0
    tokens_per_word: float = 1.0

    def text(self, shape: Shape, number: int) -> str:
        """Return a prompt of about `shape.input_tokens` tokens, unlike any other's beyond what is shared."""
        left = self._words(shape.input_tokens)
        parts = []
        if self.shared_tokens:
            parts.append(block(-1, min(left, self._words(self.shared_tokens))))
            left -= self._words(self.shared_tokens)
        for name in shape.blocks:
            if left <= 0:
                break
            parts.append(block(name, min(left, self._words(self.block_tokens))))
            left -= self._words(self.block_tokens)
        if left > 0 and not shape.blocks:
            parts.append(f"{number} " + " ".join(random.Random(number).choices(WORDS, k=max(left - 1, 0))))  # noqa: S311
        return " ".join(parts)

    def _words(self, tokens: int) -> int:
        return max(1, round(tokens / self.tokens_per_word))
