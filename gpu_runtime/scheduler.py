"""Decides what each step computes: every running stream's next token, then prompt chunks, first come first."""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .kv import Pages
from .params import SamplingParams
from .tenants import ANYBODY, Tenant
from .waiting import Waiting

Finish = Literal["stop", "length"]
End = Literal["complete", "cancelled", "error", "deadline"]


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
    tenant: Tenant = ANYBODY
    #: The lowest goes first.
    priority: int = 0
    #: All answers to one request, where it wants several: the first computes the prompt, the others take its pages.
    siblings: "list[Generation]" = field(default_factory=list)

    #: Set by another thread when the client has left; the next step drops the request.
    cancelled: bool = False

    # Set by the scheduler. `turn` is the place in the order of admission, which a preempted request keeps.
    turn: int | None = None
    pages: list[int] = field(default_factory=list)
    chain: list[bytes] = field(default_factory=list)
    computed: int = 0
    cached: int = 0
    preemptions: int = 0
    output: list[int] = field(default_factory=list)

    # Set by the engine, at the edges of its phases.
    prefill_ns: int | None = None
    first_token_ns: int | None = None
    token_ns: list[int] = field(default_factory=list)
    ended_ns: int | None = None
    preempted_at_ns: int | None = None
    preempted_ns: int = 0
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
        """Whether the first token is out."""
        return bool(self.output)

    @property
    def pending(self) -> int:
        """Tokens that are known and not computed: one while decoding, more in a prompt or after a preemption."""
        return self.length - self.computed

    def tokens(self, start: int, count: int) -> Sequence[int]:
        """Return `count` token ids from position `start` on."""
        prompt = len(self.prompt)
        if start >= prompt:
            return self.output[start - prompt : start - prompt + count]
        inside = self.prompt[start : start + count]
        return [*inside, *self.output[: count - len(inside)]] if len(inside) < count else inside


@dataclass(frozen=True)
class Work:
    """`count` tokens of a generation to compute in this step; with `samples` a new token comes of it.

    `draft`: guesses that are computed after them, to be kept as far as they are right.
    """

    generation: Generation
    count: int
    draft: tuple[int, ...] = ()

    @property
    def samples(self) -> bool:
        return self.count == self.generation.pending


class Scheduler:
    """Holds who waits and who runs; pure bookkeeping, one thread only.

    When pages run out the last running request, by priority and age, gives its own up, waits in front, and is computed
    again: the first never does, so something always moves. `preempted` names those of the last plan.
    """

    def __init__(self, pages: Pages, *, slots: int, prefill_chunk: int, prefix_cache: bool = True) -> None:
        self.waiting = Waiting()
        self.running: list[Generation] = []
        self.preempted: list[Generation] = []
        self.preemptions = self.prefix_queries = self.prefix_hits = 0
        self._pages = pages
        self._slots = slots
        self._prefill_chunk = prefill_chunk
        self._prefix_cache = prefix_cache
        self._turns = 0

    def add(self, generation: Generation) -> None:
        """Let a generation wait for its turn. ValueError when it could never be computed."""
        longest = len(generation.prompt) + generation.params.max_tokens
        if self._pages.needed(longest) > self._pages.count:
            raise ValueError(f"{longest} tokens do not fit into {self._pages.count} pages of {self._pages.size}")
        self.waiting.add(generation)

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
        """Return the work of one step, admitting waiting generations while prompt budget, slots and pages last."""
        self.preempted = []
        for generation in tuple(self.running):
            self._make_room(generation)
        work: list[Work] = []
        prompts: list[Generation] = []
        for generation in self.running:
            if generation.decoding and generation.pending == 1:
                work.append(Work(generation, 1))
            else:
                prompts.append(generation)
        budget = self._prefill_chunk
        for generation in prompts:
            if budget:
                budget -= _take(work, generation, budget)
        while budget and len(self.running) < self._slots and not self.preempted:
            candidate = self.waiting.first()
            if candidate is None or not self._admit(candidate):
                break
            budget -= _take(work, candidate, budget)
        return work

    def room(self, generation: Generation) -> int:
        """Return how many guessed tokens fit beside the next one, into the pages that are there and the answer."""
        rest = generation.params.max_tokens - len(generation.output) - 1
        return min(rest, len(generation.pages) * self._pages.size - generation.length)

    def advance(self, work: Sequence[Work]) -> None:
        """Book the computed tokens of a step; full pages can be found by others from now on."""
        for item in work:
            if item.samples:
                self.waiting.charge(item.generation.tenant, 1)
            self.computed(item.generation, item.count)

    def computed(self, generation: Generation, count: int) -> None:
        """Book computed tokens of a running generation, guessed ones once they are part of its answer."""
        before = generation.computed // self._pages.size
        generation.computed += count
        after = generation.computed // self._pages.size
        if self._shares(generation) and after > before:
            self._chain(generation)
            for index in range(before, after):
                self._pages.publish(generation.pages[index], generation.chain[index])

    def remove(self, generation: Generation) -> None:
        """Forget a generation and let go of its pages."""
        if generation in self.running:
            self._leave(generation)
        else:
            self.waiting.remove(generation)

    def _leave(self, generation: Generation) -> None:
        self.running.remove(generation)
        self._pages.release(generation.pages)
        generation.computed = 0

    def _make_room(self, generation: Generation) -> None:
        """Give a running generation the page of its next token, from the youngest ones if there is no other."""
        while generation.pages and len(generation.pages) < self._pages.needed(generation.length):
            if self._pages.available:
                self._pages.extend(generation.pages, 1)
            else:
                self._preempt(self.running[-1])

    def _preempt(self, generation: Generation) -> None:
        self._leave(generation)
        self.waiting.put_back(generation)
        self.preempted.append(generation)
        generation.preemptions += 1
        self.preemptions += 1

    def _admit(self, generation: Generation) -> bool:
        """Let a generation run if pages for all of its tokens so far can be had."""
        found: list[int] = []
        if self._shares(generation):
            self._chain(generation)
            # The last token is always computed: its logits are wanted.
            found = self._pages.find(generation.chain[: (generation.length - 1) // self._pages.size])
        more = self._pages.needed(generation.length) - len(found)
        if not self._pages.suffice(found, more):
            return False
        self.waiting.remove(generation)
        self._pages.hold(found)
        generation.pages.extend(found)
        self._pages.extend(generation.pages, more)
        generation.computed = len(found) * self._pages.size
        if generation.turn is None:
            generation.turn, self._turns = self._turns, self._turns + 1
            generation.cached = generation.computed
            self.prefix_queries += generation.length
            self.prefix_hits += generation.cached
            self.waiting.charge(generation.tenant, generation.pending)
        insort(self.running, generation, key=_order)
        return True

    def _shares(self, generation: Generation) -> bool:
        """Return whether others may use what is computed for it: without a prefix cache its siblings alone."""
        return self._prefix_cache or bool(generation.siblings)

    def _chain(self, generation: Generation) -> None:
        if generation.length // self._pages.size > len(generation.chain):
            whose = "" if self._prefix_cache else generation.id
            self._pages.chain(generation.tokens(0, generation.length), generation.chain, whose=whose)


def _order(generation: Generation) -> tuple[int, int]:
    return generation.priority, generation.turn or 0


def _take(work: list[Work], generation: Generation, budget: int) -> int:
    count = min(budget, generation.pending)
    work.append(Work(generation, count))
    return count
