"""Guesses the next tokens of a text from where its last ones stood before, and stops guessing where that fails."""

from collections.abc import Sequence

#: Tokens that must have stood together before.
GRAM = 3
#: Share of guessed tokens that must be right, over about the last WEIGHED of them; below it guessing pauses.
LEAST_RIGHT, WEIGHED = 0.5, 16
PAUSE_TOKENS = 64


class Drafter:
    """Prompt lookup for one text. A guess costs nothing where it is wrong but the work of checking it."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._known = 0
        self._right = 1.0
        self._resumes = 0

    def draft(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """Return up to `most` tokens that may follow `tokens`, none while guessing pauses."""
        size = len(tokens)
        # The last gram is looked up before it is known itself.
        for end in range(max(GRAM, self._known), size):
            self._after[tuple(tokens[end - GRAM : end])] = end
        self._known = max(self._known, size)
        at = self._after.get(tuple(tokens[-GRAM:]))
        if at is None or size < self._resumes:
            return ()
        return tuple(tokens[at : at + most])

    def checked(self, *, drafted: int, accepted: int, length: int) -> None:
        """Learn how many of the guessed tokens were right, at a text of so many tokens."""
        weight = min(1.0, drafted / WEIGHED)
        self._right += weight * (accepted / drafted - self._right)
        if self._right < LEAST_RIGHT:
            self._resumes = length + PAUSE_TOKENS
            self._right = LEAST_RIGHT
