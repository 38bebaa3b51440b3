"""Decides what each step computes: every running stream's next token, then prompt chunks, oldest request first."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Finish = Literal["stop", "length"]
End = Literal["complete", "cancelled", "error", "deadline"]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and where an answer ends; `ignore_eos` goes on until `max_tokens`."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(eq=False)
class Generation:
    """One request in the engine. Times are `perf_counter_ns` of one clock; phases share their boundaries."""

    id: str
    prompt: Sequence[int]
    params: SamplingParams
    arrived_ns: int
    #: What the caller needs to hang the request's span under its own; opaque here.
    trace_context: Any = None
    #: When nobody waits any more; the next step ends the request.
    deadline_ns: int | None = None

    #: Set by another thread when the client has left; the next step drops the request.
    cancelled: bool = False

    # Set by the scheduler.
    slot: int | None = None
    computed: int = 0
    output: list[int] = field(default_factory=list)

    # Set by the engine, at the edges of its phases.
    prefill_ns: int | None = None
    first_token_ns: int | None = None
    last_ns: int = 0
    ended_ns: int | None = None
    end: End | None = None
    finish: Finish | None = None
    error: str = ""
    batch_peak: int = 0
    kv_peak: float = 0.0

    @property
    def length(self) -> int:
        """Tokens so far, prompt and answer."""
        return len(self.prompt) + len(self.output)

    @property
    def decoding(self) -> bool:
        """Whether the prompt is computed and the first token is out."""
        return bool(self.output)

    def tokens(self, start: int, count: int) -> Sequence[int]:
        """Return `count` token ids from position `start` on."""
        if start >= len(self.prompt):
            return self.output[start - len(self.prompt) : start - len(self.prompt) + count]
        return self.prompt[start : start + count]


@dataclass(frozen=True)
class Work:
    """`count` tokens of a generation to compute in this step; with `samples` a new token comes of it."""

    generation: Generation
    count: int

    @property
    def samples(self) -> bool:
        return self.generation.computed + self.count == self.generation.length


class Scheduler:
    """Holds who waits and who runs; pure bookkeeping, one thread only."""

    def __init__(self, *, slots: int, prefill_chunk: int) -> None:
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []
        self._free = list(range(slots))[::-1]
        self._prefill_chunk = prefill_chunk

    @property
    def used_positions(self) -> int:
        """Positions of the KV cache that hold something."""
        return sum(generation.computed for generation in self.running)

    def add(self, generation: Generation) -> None:
        """Let a generation wait for its turn."""
        self.waiting.append(generation)

    def cancelled(self) -> list[Generation]:
        """Return those that were cancelled, waiting or running."""
        return [generation for generation in (*self.running, *self.waiting) if generation.cancelled]

    def expired(self, now_ns: int) -> list[Generation]:
        """Return those whose deadline is over, waiting or running."""
        return [
            generation
            for generation in (*self.running, *self.waiting)
            if generation.deadline_ns is not None and generation.deadline_ns <= now_ns
        ]

    def plan(self) -> list[Work]:
        """Return the work of one step, admitting waiting generations while prompt budget and slots last."""
        work = [Work(generation, 1) for generation in self.running if generation.decoding]
        budget = self._prefill_chunk
        for generation in self.running:
            if not generation.decoding and budget:
                budget -= _take(work, generation, budget)
        while budget and self.waiting and self._free:
            generation = self.waiting.popleft()
            generation.slot = self._free.pop()
            self.running.append(generation)
            budget -= _take(work, generation, budget)
        return work

    def advance(self, work: Sequence[Work]) -> None:
        """Book the computed tokens of a step."""
        for item in work:
            item.generation.computed += item.count

    def remove(self, generation: Generation) -> None:
        """Forget a generation and free its slot."""
        if generation.slot is None:
            self.waiting.remove(generation)
            return
        self.running.remove(generation)
        self._free.append(generation.slot)
        generation.slot = None
        generation.computed = 0


def _take(work: list[Work], generation: Generation, budget: int) -> int:
    count = min(budget, generation.length - generation.computed)
    work.append(Work(generation, count))
    return count
