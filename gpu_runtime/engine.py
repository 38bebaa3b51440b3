"""The engine: one thread that batches all requests anew at every step."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .answer import Answer
from .energy import EnergyAccountant
from .model import Llama, Segment
from .sampling import Sampler
from .scheduler import End, Finish, Generation, Scheduler, Work
from .settings import RuntimeSettings
from .tokenizer import TextTokenizer

logger = logging.getLogger(__name__)


class EngineFullError(Exception):
    """As many requests wait as the settings allow."""


class EngineStoppedError(Exception):
    """The engine takes no more requests."""


@dataclass(frozen=True)
class Delta:
    """What one step added to one generation; the last one of a generation has `done`."""

    generation: Generation
    text: str
    done: bool


class Observer(Protocol):
    """Who is told of the engine's work, in its thread."""

    def decoding(self, change: int) -> None:
        """Take note of `change` more (or fewer) decoding streams."""

    def step(self, *, tokens: int, active_ns: int) -> None:
        """Take note of a step: tokens decoded after first ones, and nanoseconds summed over the decoding streams."""

    def finished(self, generation: Generation) -> None:
        """Take note of a generation that is over, however it ended."""


@dataclass(frozen=True)
class _Voice:
    sampler: Sampler
    answer: Answer


class Engine:
    """Continuous batching over one model. `emit` gets what a step produced, once a step, in the engine's thread.

    `step_delay_ms` may be changed at any time and really slows the loop: it is slept in every step that decodes.
    """

    def __init__(
        self,
        model: Llama,
        *,
        tokenizer: TextTokenizer,
        settings: RuntimeSettings,
        observer: Observer,
        emit: Callable[[Sequence[Delta]], None],
    ) -> None:
        self.context = min(settings.max_context, model.shape.max_context)
        self.step_delay_ms = settings.step_delay_ms
        #: Told of every step; the default one is never told of a counter, and keeps nothing.
        self.energy = EnergyAccountant()
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings
        self._observer = observer
        self._emit = emit
        self._cache = model.cache(slots=settings.max_running, context=self.context)
        self._scheduler = Scheduler(slots=settings.max_running, prefill_chunk=settings.prefill_chunk)
        self._voices: dict[Generation, _Voice] = {}
        self._inbox: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._deltas: list[Delta] = []
        self._thread = threading.Thread(target=self._run, name="tailbudget-engine", daemon=True)

    @property
    def running(self) -> int:
        """Generations that hold a slot."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """Generations without a slot yet."""
        return len(self._scheduler.waiting) + self._inbox.qsize()

    @property
    def kv_used(self) -> float:
        """Share of the KV cache that is in use, 0 to 1."""
        return self._scheduler.used_positions / self._cache.capacity

    def warm_up(self) -> None:
        """Run the shapes of real work once, so that the first request does not pay for what is made on first use."""
        torch.set_num_threads(1)
        rows = min(self._settings.prefill_chunk, self.context - 1)
        self._model.forward([Segment(0, 0, [0] * rows)], self._cache, [0])
        for count in range(1, self._settings.max_running + 1):
            self._model.forward([Segment(slot, 0, [0]) for slot in range(count)], self._cache, range(count))

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def stop(self) -> None:
        """End all generations as cancelled and the thread with them; returns when both are done."""
        self._stopping.set()
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, generation: Generation) -> None:
        """Queue a generation that fits `context`; EngineFullError or, after `stop`, EngineStoppedError."""
        if self._stopping.is_set():
            raise EngineStoppedError("the server is shutting down")
        slots, places = self._settings.max_running, self._settings.max_waiting
        # Requests for which a slot is free count as running: they are only not admitted yet.
        if self.running + self.waiting >= slots + places:
            raise EngineFullError(f"this server runs {slots} requests and queues {places}: all places are taken")
        self._inbox.put(generation)

    def _run(self) -> None:
        torch.set_num_threads(1)
        while not self._stopping.is_set():
            self._receive()
            try:
                self._step()
                self._deliver()
            except Exception:
                logger.exception("a step failed: all requests end with an error")
                self._end_all("error", "the engine failed")
        self._receive()
        self._end_all("cancelled", "the server is shutting down")
        self._deliver()

    def _receive(self) -> None:
        """Take in what was submitted; waits while there is nothing else to do."""
        idle = not self._scheduler.running and not self._scheduler.waiting and not self._stopping.is_set()
        while idle or not self._inbox.empty():
            generation = self._inbox.get()
            idle = False
            if generation is not None:
                params = generation.params
                sampler = Sampler(temperature=params.temperature, top_p=params.top_p, seed=params.seed)
                self._voices[generation] = _Voice(sampler, Answer(self._tokenizer, params))
                self._scheduler.add(generation)

    def _step(self) -> None:
        for generation in self._scheduler.cancelled():
            self._end(generation, "cancelled", at_ns=time.perf_counter_ns())
        for generation in self._scheduler.expired(time.perf_counter_ns()):
            generation.error = "the deadline that came with the request is over"
            self._end(generation, "deadline", at_ns=time.perf_counter_ns())
        work = self._scheduler.plan()
        if not work:
            return
        self._begin(work)
        self.energy.step_started()
        chosen = self._compute(work)
        self.energy.step_ended({item.generation.id: item.count for item in work})
        if self.step_delay_ms and any(item.generation.decoding for item in work):
            self._stopping.wait(self.step_delay_ms / 1e3)
        # After the tokens have reached the host: one stamp for all that this step did.
        now_ns = time.perf_counter_ns()
        self._account(chosen, now_ns)
        for generation, token in chosen.items():
            self._extend(generation, token, now_ns)

    def _begin(self, work: Sequence[Work]) -> None:
        now_ns = time.perf_counter_ns()
        kv_used = self.kv_used
        for item in work:
            generation = item.generation
            generation.prefill_ns = generation.prefill_ns or now_ns
            generation.batch_peak = max(generation.batch_peak, len(work))
            generation.kv_peak = max(generation.kv_peak, kv_used)

    def _compute(self, work: Sequence[Work]) -> dict[Generation, int]:
        """Return the new tokens of a step. When a batch fails each member is tried alone: only the culprit ends."""
        try:
            return self._forward(work)
        except Exception:
            logger.exception("a batch of %d failed: trying its requests one by one", len(work))
        chosen: dict[Generation, int] = {}
        for item in work:
            try:
                chosen |= self._forward([item])
            except Exception as error:
                logger.exception("request %s failed", item.generation.id)
                item.generation.error = f"{type(error).__name__} in the engine"
                self._end(item.generation, "error", at_ns=time.perf_counter_ns())
        return chosen

    def _forward(self, work: Sequence[Work]) -> dict[Generation, int]:
        segments = [_segment(item) for item in work]
        wanted = [index for index, item in enumerate(work) if item.samples]
        logits = self._model.forward(segments, self._cache, wanted)
        chosen = {
            work[index].generation: self._choose(work[index], row) for index, row in zip(wanted, logits, strict=True)
        }
        self._scheduler.advance(work)
        return chosen

    def _choose(self, item: Work, logits: Tensor) -> int:
        return self._voices[item.generation].sampler.choose(logits)

    def _account(self, chosen: dict[Generation, int], now_ns: int) -> None:
        """Tell the observer how long the decoding streams took for this step's tokens, the delay included."""
        decoded = [generation for generation in chosen if generation.decoding]
        if decoded:
            self._observer.step(tokens=len(decoded), active_ns=sum(now_ns - each.last_ns for each in decoded))

    def _extend(self, generation: Generation, token: int, now_ns: int) -> None:
        generation.output.append(token)
        generation.last_ns = now_ns
        if generation.first_token_ns is None:
            generation.first_token_ns = now_ns
            self._observer.decoding(1)
        text, finish = self._voices[generation].answer.feed(token)
        if finish:
            self._end(generation, "complete", at_ns=now_ns, text=text, finish=finish)
        elif text:
            self._deltas.append(Delta(generation, text, done=False))

    def _end(
        self, generation: Generation, end: End, *, at_ns: int, text: str = "", finish: Finish | None = None
    ) -> None:
        generation.end, generation.finish, generation.ended_ns = end, finish, at_ns
        generation.kv_peak = max(generation.kv_peak, self.kv_used)
        self._scheduler.remove(generation)
        self._voices.pop(generation, None)
        self._deltas.append(Delta(generation, text, done=True))
        if generation.first_token_ns is not None:
            self._observer.decoding(-1)
        self._observer.finished(generation)

    def _end_all(self, end: End, reason: str) -> None:
        for generation in (*self._scheduler.running, *self._scheduler.waiting):
            generation.error = reason
            self._end(generation, end, at_ns=time.perf_counter_ns())

    def _deliver(self) -> None:
        if self._deltas:
            deltas, self._deltas = self._deltas, []
            self._emit(deltas)


def _segment(item: Work) -> Segment:
    generation = item.generation
    if generation.slot is None:
        raise RuntimeError(f"request {generation.id} is planned without a slot")
    return Segment(generation.slot, generation.computed, generation.tokens(generation.computed, item.count))
