"""How long requests are: drawn from distributions, or as a trace has them."""

import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tailbudget.instrument.errors import UserError

from .traces import BLOCK_TOKENS, Shape, Traced

Draw = Callable[[random.Random], float]
FORM: Final = re.compile(r"(\w+)\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)")
#: Distribution of tokens, by two numbers.
DRAWS: Final[dict[str, Callable[[float, float], Draw]]] = {
    "normal": lambda mean, deviation: lambda rng: rng.gauss(mean, deviation),
    "lognormal": lambda median, sigma: lambda rng: median * math.exp(rng.gauss(0.0, sigma)),
    "uniform": lambda low, high: lambda rng: rng.uniform(low, high),
}


def lengths(text: str) -> Draw:
    """Return what draws numbers of tokens as `256`, `normal(256,64)`, `lognormal(256,0.8)` or `uniform(16,512)` says.

    Raises UserError for another text. lognormal is given by its median and the deviation of its logarithm.
    """
    if text.strip().isdecimal():
        fixed = float(text)
        return lambda _: fixed
    found = FORM.fullmatch(text.strip())
    if found is None or found[1] not in DRAWS:
        raise UserError(f"{text!r} is no length: expected tokens, as in 256, or one of {', '.join(DRAWS)}, as in "
                        "lognormal(256,0.8)")  # fmt: skip
    return DRAWS[found[1]](float(found[2]), float(found[3]))


@dataclass(frozen=True)
class Lengths:
    """Where shapes come from: `trace` in its order, over and over, else drawn from `tokens_in` and `tokens_out`.

    `scale` is what lengths are multiplied by, `most_in` and `most_out` are bounds, so that a trace of long prompts fits
    a small context.
    """

    tokens_in: Draw
    tokens_out: Draw
    trace: Sequence[Traced] = ()
    scale: float = 1.0
    most_in: int = 1 << 20
    most_out: int = 1 << 20

    @property
    def block_tokens(self) -> int:
        """Return how many tokens a block of a shape has."""
        return max(1, round(BLOCK_TOKENS * self.scale))

    def shapes(self, seed: int) -> Iterator[Shape]:
        """Yield shapes without end, the same for the same seed."""
        rng = random.Random(seed)  # noqa: S311 - traffic is no secret
        shapes = (one.shape for one in itertools.cycle(self.trace)) if self.trace else self._drawn(rng)
        for shape in shapes:
            yield Shape(
                min(max(1, round(shape.input_tokens * self.scale)), self.most_in),
                min(max(1, round(shape.output_tokens * self.scale)), self.most_out),
                shape.blocks,
            )

    def _drawn(self, rng: random.Random) -> Iterator[Shape]:
        while True:
            yield Shape(round(self.tokens_in(rng)), round(self.tokens_out(rng)))
