"""The engine: one thread that batches all requests anew at every step."""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate

import torch

from .admission import Admission
from .energy import EnergyAccountant
from .kv import Pages, pages_for
from .model import Llama, Segment
from .reports import Counts, Delta, Observer
from .runner import Logits, Runner
from .scheduler import End, Finish, Generation, Scheduler, Work
from .settings import RuntimeSettings
from .tokenizer import TextTokenizer
from .voices import Voice, followers, pending, resumed

logger = logging.getLogger(__name__)
#: Rows of a step up to which guesses are checked along: beyond, a row costs as much as it brings.
SPECULATE_ROWS = 4


class EngineFullError(Exception):
    """No room, or none before the request's deadline; `retry_s` is when there will be, as far as can be told."""

    def __init__(self, message: str, *, retry_s: float) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class EngineStoppedError(Exception):
    """The engine takes no more requests."""


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
        context = min(settings.max_context, model.shape.max_context)
        pages = pages_for(context, running=settings.max_running, asked=settings.kv_pages, device=model.device.type)
        self.context = min(context, pages.count * pages.size)
        self.step_delay_ms = settings.step_delay_ms
        #: Told of every step; the default one is never told of a counter, and keeps nothing.
        self.energy = EnergyAccountant()
        self.counts = Counts()
        self._tokenizer = tokenizer
        self._settings = settings
        self._observer = observer
        self._emit = emit
        self._pages = pages
        self._runner = Runner(
            model, pages=pages.count, page_tokens=pages.size, most=settings.max_running, longest=self.context
        )
        self._scheduler = Scheduler(
            pages,
            slots=settings.max_running,
            prefill_chunk=settings.prefill_chunk,
            prefix_cache=settings.prefix_cache,
        )
        self._voices: dict[Generation, Voice] = {}
        self._inbox: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._deltas: list[Delta] = []
        #: When the last step ended, 0 after an idle while: the next one began there, bookkeeping included.
        self._since_ns = 0
        self._admission = Admission(slots=settings.max_running, places=settings.max_waiting)
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
        """Share of the KV cache's pages that requests hold, 0 to 1; pages that are only kept do not count."""
        return self._pages.held / self._pages.count

    def warm_up(self, *, given_up: Callable[[], bool] = lambda: False) -> None:
        """Run the shapes of real work once, so that the first request does not pay for what is made on first use."""
        torch.set_num_threads(1)
        prompt_tokens = min(self._settings.prefill_chunk, self.context - 1)
        self._runner.warm_up(prompt_tokens=prompt_tokens, most=self._settings.max_running, given_up=given_up)

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
        """Queue a generation with its siblings.

        EngineFullError when there is no room, after `stop` EngineStoppedError, ValueError beyond `context` tokens.
        """
        if len(generation.prompt) + generation.params.max_tokens > self.context:
            raise ValueError(f"request {generation.id} needs more than {self.context} tokens")
        if self._stopping.is_set():
            raise EngineStoppedError("the server is shutting down")
        ahead = self.running + self.waiting
        if refused := self._admission.refusal(generation, ahead=ahead, now_ns=time.perf_counter_ns()):
            raise EngineFullError(refused.message, retry_s=refused.retry_s)
        self._inbox.put(generation)

    @property
    def pages(self) -> Pages:
        """The KV cache's pages, for whoever tells how many there are."""
        return self._pages

    @property
    def refused(self) -> Mapping[str, int]:
        """Requests that were refused at the door, by why."""
        return self._admission.refused

    @property
    def wait_s(self) -> float:
        """How long a request that came now would wait for its turn, from how long the last ones ran."""
        return self._admission.wait_s(self.running + self.waiting)

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
        if idle:
            self._since_ns = 0
            self._take_in(self._inbox.get())
            self._gather()
        while not self._inbox.empty():
            self._take_in(self._inbox.get())

    def _gather(self) -> None:
        """Wait for others after a first request: nothing runs that a moment's patience, up to a deadline, holds up."""
        until_ns = time.perf_counter_ns() + int(self._settings.batch_delay_ms * 1e6)
        while 0 < len(self._scheduler.waiting) < self._settings.max_running and not self._stopping.is_set():
            deadlines_ns = [each.deadline_ns for each in self._scheduler.waiting if each.deadline_ns is not None]
            left_s = (min([until_ns, *deadlines_ns]) - time.perf_counter_ns()) / 1e9
            if left_s <= 0:
                break
            with suppress(queue.Empty):
                self._take_in(self._inbox.get(timeout=left_s))

    def _take_in(self, generation: Generation | None) -> None:
        """Let a generation wait for its turn; None only wakes the loop."""
        if generation is not None:
            self._voices[generation] = Voice.of(generation, self._tokenizer)
            self._scheduler.add(generation)

    def _step(self) -> None:
        for generation in self._scheduler.cancelled():
            self._end(generation, "cancelled", at_ns=time.perf_counter_ns())
        for generation in self._scheduler.expired(time.perf_counter_ns()):
            generation.error = "the deadline that came with the request is over"
            self._end(generation, "deadline", at_ns=time.perf_counter_ns())
        work = self._scheduler.plan()
        for generation in self._scheduler.preempted:
            generation.preempted_at_ns = generation.preempted_at_ns or time.perf_counter_ns()
        if not work:
            return
        work = self._drafted(work)
        began_ns = self._begin(work)
        self.energy.step_started()
        chosen = self._compute(work)
        tokens_of = Counter[str]()
        for item in work:
            tokens_of[item.generation.id] += item.count  # siblings share one
        self.energy.step_ended(tokens_of)
        if self.step_delay_ms and any(item.generation.decoding for item in work):
            self._stopping.wait(self.step_delay_ms / 1e3)
        # After the tokens have reached the host: one stamp for all that this step did.
        now_ns = time.perf_counter_ns()
        self._count(work, chosen, now_ns - (self._since_ns or began_ns))
        self._since_ns = now_ns
        self._account(chosen, now_ns)
        for generation, tokens in chosen.items():
            self._extend(generation, tokens, now_ns)

    def _drafted(self, work: list[Work]) -> list[Work]:
        """Return the work with guesses added to the decoding streams, where few enough rows leave the time for it."""
        if not self._settings.speculate or sum(item.count for item in work) > SPECULATE_ROWS:
            return work
        return [self._guessed(item) if item.generation.decoding and item.samples else item for item in work]

    def _guessed(self, item: Work) -> Work:
        generation = item.generation
        most = min(self._settings.speculate, self._scheduler.room(generation))
        return replace(item, draft=self._voices[generation].draft(generation, most))

    def _begin(self, work: Sequence[Work]) -> int:
        """Stamp those whose prompt begins with this step; returns when that is."""
        now_ns = time.perf_counter_ns()
        kv_used = self.kv_used
        for item in work:
            generation = item.generation
            generation.prefill_ns = generation.prefill_ns or now_ns
            generation.batch_peak = max(generation.batch_peak, len(work))
            generation.kv_peak = max(generation.kv_peak, kv_used)
        return now_ns

    def _compute(self, work: Sequence[Work]) -> dict[Generation, list[int]]:
        """Return the new tokens of a step. When a batch fails each member is tried alone: only the culprit ends."""
        try:
            return self._forward(work)
        except Exception:
            logger.exception("a batch of %d failed: trying its requests one by one", len(work))
        chosen: dict[Generation, list[int]] = {}
        for item in work:
            try:
                chosen |= self._forward([item])
            except Exception as error:
                logger.exception("request %s failed", item.generation.id)
                self._fail(item.generation, error)
        return chosen

    def _fail(self, generation: Generation, error: Exception) -> None:
        generation.error = f"{type(error).__name__} in the engine"
        self._end(generation, "error", at_ns=time.perf_counter_ns())

    def _forward(self, work: Sequence[Work]) -> dict[Generation, list[int]]:
        logits = self._runner.forward([_segment(item) for item in work])
        sampling = [item for item in work if item.samples]
        firsts = accumulate((1 + len(item.draft) for item in sampling), initial=0)
        chosen: dict[Generation, list[int]] = {}
        failed: dict[Generation, Exception] = {}
        for item, first in zip(sampling, firsts, strict=False):
            # A sampler keeps what it chose: a batch that got here is never computed again for the sake of one of it.
            try:
                chosen[item.generation] = self._choose(item, logits, first)
            except Exception as error:
                logger.exception("request %s failed", item.generation.id)
                failed[item.generation] = error
        self._scheduler.advance(work)
        for generation, reason in failed.items():
            self._fail(generation, reason)
        return chosen

    def _choose(self, item: Work, logits: Logits, first: int) -> list[int]:
        """Return the next tokens: one, and one more for each guess that is what would have been chosen anyway."""
        voice = self._voices[item.generation]
        chosen: list[int] = []
        for row, guess in enumerate((*item.draft, None), first):
            token = logits.likeliest[row] if voice.sampler.plain else voice.chosen(logits.rows[row])
            chosen.append(token)
            if token != guess or voice.sampler.complete:
                break
        if drafted := len(item.draft):
            accepted = len(chosen) - 1
            voice.drafter.checked(drafted=drafted, accepted=accepted, length=item.generation.length)
            self.counts.checked(drafted=drafted, accepted=accepted)
        return chosen

    def _count(self, work: Sequence[Work], chosen: Mapping[Generation, list[int]], step_ns: int) -> None:
        counts, scheduler, tokens = self.counts, self._scheduler, sum(item.count for item in work)
        counts.step(tokens=tokens, step_ns=step_ns)
        counts.generation_tokens += sum(map(len, chosen.values()))
        counts.prompt_tokens += tokens - sum(generation.decoding for generation in chosen)
        counts.preemptions = scheduler.preemptions
        counts.prefix_queries, counts.prefix_hits = scheduler.prefix_queries, scheduler.prefix_hits

    def _account(self, chosen: dict[Generation, list[int]], now_ns: int) -> None:
        """Tell the observer how long the decoding streams took for this step's tokens, the delay included."""
        decoded = [generation for generation in chosen if generation.decoding]
        if decoded:
            tokens = sum(len(chosen[each]) for each in decoded)
            self._observer.step(tokens=tokens, active_ns=sum(now_ns - each.token_ns[-1] for each in decoded))

    def _extend(self, generation: Generation, tokens: Sequence[int], now_ns: int) -> None:
        resumed(generation, now_ns)
        if generation.first_token_ns is None:
            generation.first_token_ns = now_ns
            self._observer.decoding(1)
            # Not before: now they find the prompt computed, and compute the rest of its last page.
            for sibling in followers(generation):
                self._take_in(sibling)
        voice = self._voices[generation]
        sent = ""
        for left, token in zip(range(len(tokens) - 1, -1, -1), tokens, strict=True):
            generation.output.append(token)
            generation.token_ns.append(now_ns)
            text, finish = voice.answer.feed(token, last=not left and voice.sampler.complete)
            sent += text
            if finish:
                self._end(generation, "complete", at_ns=now_ns, text=sent, finish=finish)
                return
        self._scheduler.computed(generation, len(tokens) - 1)
        if sent:
            self._deltas.append(Delta(generation, sent, done=False, tokens=len(generation.output), chosen=voice.sent()))

    def _end(
        self, generation: Generation, end: End, *, at_ns: int, text: str = "", finish: Finish | None = None
    ) -> None:
        generation.end, generation.finish, generation.ended_ns = end, finish, at_ns
        generation.kv_peak = max(generation.kv_peak, self.kv_used)
        resumed(generation, at_ns)
        self._admission.served(generation)
        self._scheduler.remove(generation)
        voice = self._voices.pop(generation)
        self._deltas.append(Delta(generation, text, done=True, tokens=len(generation.output), chosen=voice.sent()))
        if generation.first_token_ns is None:
            # Nobody else will: they wait for its first token.
            for sibling in followers(generation):
                sibling.end, sibling.error, sibling.ended_ns = end, generation.error, at_ns
                self._deltas.append(Delta(sibling, "", done=True))
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
    tail = 1 + len(item.draft) if item.samples else 0
    return Segment(generation.pages, generation.computed, pending(item), tail=tail)
