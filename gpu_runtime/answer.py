"""Turns one generation's tokens into the text that may be sent, and says when the answer is over."""

from .params import SamplingParams
from .scheduler import Finish
from .tokenizer import TextTokenizer


class Answer:
    """Text of one generation: whole characters only, nothing from a stop string on."""

    def __init__(self, tokenizer: TextTokenizer, params: SamplingParams) -> None:
        self._pieces = tokenizer.pieces()
        self._end_ids = frozenset() if params.ignore_eos else tokenizer.end_ids
        self._stop = params.stop
        self._left = params.max_tokens
        self._early = params.min_tokens
        self._held = ""

    def feed(self, token: int, *, last: bool = False) -> tuple[str, Finish | None]:
        """Return the text to send after `token`, maybe empty, and why the answer ends with it, if it does.

        After the `last` one nothing can follow.
        """
        self._left -= 1
        self._early -= 1
        if token in self._end_ids:
            return self._rest(), "stop"
        self._held += self._pieces.feed(token)
        stops = self._stop if self._early < 0 else ()
        found = [at for at in map(self._held.find, stops) if at >= 0]
        if found:
            return self._held[: min(found)], "stop"
        if last:
            return self._rest(), "stop"
        if self._left <= 0:
            return self._rest(), "length"
        send = len(self._held) - (self._undecided() if stops else 0)
        text, self._held = self._held[:send], self._held[send:]
        return text, None

    def _undecided(self) -> int:
        """Return how many held characters may be the beginning of a stop string."""
        longest = min(len(self._held), max(map(len, self._stop), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._stop)), 0)

    def _rest(self) -> str:
        rest, self._held = self._held + self._pieces.flush(), ""
        return rest
