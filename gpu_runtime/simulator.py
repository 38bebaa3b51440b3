"""Runs the scheduler that serves on a clock of its own: a step takes what a formula says, so an hour takes seconds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Final, Literal

from tailbudget.instrument.errors import UserError

from . import tenants
from .admission import Admission
from .kv import pages_for
from .params import SamplingParams
from .scheduler import End, Generation, Scheduler, Work
from .settings import RuntimeSettings
from .simulated import Ended, Run, Steps
from .tenants import ANYBODY, Quota, Tenant

Refused = Literal["full", "late", "quota", "too_long"]
#: Token ids of prompts without blocks begin here, beyond those of any block: no two prompts begin alike.
UNLIKE: Final = 1 << 48


@dataclass(frozen=True)
class StepTime:
    """What a step takes: `base_ms`, and more for each decoding stream and each prompt token. UserError below 0."""

    base_ms: float
    _: KW_ONLY
    stream_ms: float = 0.0
    prompt_token_ms: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not math.isfinite(value) or value < 0:
                raise UserError(f"{name} of a step is {value!r}: expected milliseconds, 0 or more")
        if not self.base_ms + self.stream_ms:
            raise UserError("a step that decodes takes no time: expected base_ms or stream_ms above 0")

    def ns(self, *, streams: int, prompt_tokens: int) -> int:
        """Return the nanoseconds of a step with so many decoding streams and prompt tokens."""
        return round((self.base_ms + self.stream_ms * streams + self.prompt_token_ms * prompt_tokens) * 1e6)


@dataclass(frozen=True)
class Arrival:
    """One request of a trace, `at_s` after its start.

    `blocks`: ids of its prompt's blocks of `block_tokens`; prompts whose first blocks are the same begin alike.
    """

    at_s: float
    _: KW_ONLY
    prompt_tokens: int
    output_tokens: int
    tenant: str = ""
    priority: int = 0
    blocks: tuple[int, ...] = ()
    block_tokens: int = 512


def simulate(
    arrivals: Iterable[Arrival],
    *,
    step_time: StepTime,
    settings: RuntimeSettings,
    deadline_s: float | None = None,
) -> Run:
    """Serve the arrivals, ordered by time, as a runtime with these settings would, and return what came of them.

    Each generates its `output_tokens` to the end. `deadline_s`: how long after its arrival nobody waits any more.
    `settings.api_keys` names tenants by the names that arrivals carry. Guesses (`speculate`) are not simulated: whether
    they are right depends on text. UserError for a tenant that the file of keys lacks.
    """
    simulation = _Simulation(step_time, settings, deadline_s)
    simulation.serve(sorted(arrivals, key=lambda arrival: arrival.at_s))
    return simulation.run


class _Simulation:
    def __init__(self, step_time: StepTime, settings: RuntimeSettings, deadline_s: float | None) -> None:
        device = "cuda" if settings.device == "cuda" else "cpu"
        self._pages = pages_for(
            settings.max_context, running=settings.max_running, asked=settings.kv_pages, device=device
        )
        self._context = min(settings.max_context, self._pages.count * self._pages.size)
        self._scheduler = Scheduler(
            self._pages,
            slots=settings.max_running,
            prefill_chunk=settings.prefill_chunk,
            prefix_cache=settings.prefix_cache,
        )
        self._admission = Admission(slots=settings.max_running, places=settings.max_waiting)
        self._step_time = step_time
        self._settings = settings
        self._deadline_s = deadline_s
        self._tenants = _by_name(settings.api_keys)
        self._quotas: dict[str, Quota] = {}
        self._now_ns = 0
        self._arrivals: Sequence[Arrival] = ()
        self._next = 0
        self._fresh = UNLIKE
        self.run = Run(steps=Steps(slots=settings.max_running))

    def serve(self, arrivals: Sequence[Arrival]) -> None:
        """Serve all of them to their end."""
        self._arrivals = arrivals
        scheduler = self._scheduler
        while self._next < len(arrivals) or scheduler.running or len(scheduler.waiting):
            self._receive()
            if scheduler.running or len(scheduler.waiting):
                self._step()
        self.run.length_s = self._now_ns / 1e9
        self.run.preemptions = scheduler.preemptions
        self.run.prefix_hits, self.run.prefix_queries = scheduler.prefix_hits, scheduler.prefix_queries

    def _receive(self) -> None:
        """Take in what has arrived, as the engine does between two steps; an idle one waits, and gathers."""
        scheduler = self._scheduler
        if not scheduler.running and not len(scheduler.waiting):
            self._now_ns = max(self._now_ns, self._due_ns())
            self._take_in()
            until_ns = self._now_ns + round(self._settings.batch_delay_ms * 1e6)
            while 0 < len(scheduler.waiting) < self._settings.max_running and self._now_ns < until_ns:
                self._now_ns = min(until_ns, max(self._now_ns, self._due_ns()))
                self._take_in()
        self._take_in()

    def _due_ns(self) -> int:
        """When the next request arrives; long after all of them when none is left."""
        return round(self._arrivals[self._next].at_s * 1e9) if self._next < len(self._arrivals) else 1 << 62

    def _take_in(self) -> None:
        """Let those wait that have arrived by now and are not refused."""
        while self._due_ns() <= self._now_ns:
            arrived_ns, arrival = self._due_ns(), self._arrivals[self._next]
            self._next += 1
            generation = self._generation(arrival, arrived_ns)
            if refused := self._refused(generation):
                self.run.refused.append((arrival.tenant, refused))
                continue
            if quota := self._quotas.get(arrival.tenant):
                quota.spend(requests=1, tokens=arrival.prompt_tokens)
            self._scheduler.add(generation)

    def _generation(self, arrival: Arrival, arrived_ns: int) -> Generation:
        tenant = self._tenant(arrival.tenant, arrived_ns)
        return Generation(
            arrival.tenant,
            self._prompt(arrival),
            SamplingParams(max_tokens=arrival.output_tokens),
            arrived_ns,
            deadline_ns=None if self._deadline_s is None else arrived_ns + round(self._deadline_s * 1e9),
            tenant=tenant,
            priority=max(arrival.priority, tenant.priority),
        )

    def _prompt(self, arrival: Arrival) -> Sequence[int]:
        """Return token ids: the same for the same block, else such as no other prompt has."""
        size = arrival.block_tokens
        tokens = [token for block in arrival.blocks for token in range(block * size, (block + 1) * size)]
        missing = max(0, arrival.prompt_tokens - len(tokens))
        fresh = range(self._fresh, self._fresh + missing)
        self._fresh += missing
        return [*tokens[: arrival.prompt_tokens], *fresh] if tokens else fresh

    def _tenant(self, name: str, now_ns: int) -> Tenant:
        if self._tenants is None:
            return ANYBODY
        if name not in self._tenants:
            known = ", ".join(map(repr, sorted(self._tenants)))
            raise UserError(f"the trace has a request of tenant {name!r}: {self._settings.api_keys} has {known}")
        self._quotas.setdefault(name, Quota(self._tenants[name], now_s=now_ns / 1e9))
        return self._tenants[name]

    def _refused(self, generation: Generation) -> Refused | None:
        if len(generation.prompt) + generation.params.max_tokens > self._context:
            return "too_long"
        quota = self._quotas.get(generation.tenant.name)
        if quota and quota.wait_s(generation.arrived_ns / 1e9):
            return "quota"
        ahead = len(self._scheduler.running) + len(self._scheduler.waiting)
        if self._admission.refusal(generation, ahead=ahead, now_ns=generation.arrived_ns) is None:
            return None
        return "full" if ahead >= self._settings.max_running + self._settings.max_waiting else "late"

    def _step(self) -> None:
        scheduler, steps = self._scheduler, self.run.steps
        if self._deadline_s is not None:
            for generation in scheduler.expired(self._now_ns):
                self._end(generation, "deadline")
        work = scheduler.plan()
        if not work:
            if scheduler.running or len(scheduler.waiting):
                raise RuntimeError("the scheduler plans no work although requests wait: nothing would ever move")
            return
        sampled, streams = self._begin(work)
        prompt_tokens = sum(item.count for item in work) - streams
        step_ns = self._step_time.ns(streams=streams, prompt_tokens=prompt_tokens)
        if streams:
            step_ns += round(self._settings.step_delay_ms * 1e6)
        self._now_ns += step_ns
        steps.add(
            step_ns, streams=streams, prompt_tokens=prompt_tokens, running=len(scheduler.running),
            waiting=len(scheduler.waiting), kv_used=self._pages.held / self._pages.count,
        )  # fmt: skip
        scheduler.advance(work)
        for generation in sampled:
            self._extend(generation)

    def _begin(self, work: Sequence[Work]) -> tuple[list[Generation], int]:
        """Stamp those whose prompt begins with this step; return who gets a token, and how many of them had one."""
        for item in work:
            if item.generation.prefill_ns is None:
                item.generation.prefill_ns = self._now_ns
        sampled = [item.generation for item in work if item.samples]
        return sampled, sum(generation.decoding for generation in sampled)

    def _extend(self, generation: Generation) -> None:
        now_ns = self._now_ns
        generation.output.append(0)
        if generation.first_token_ns is None:
            generation.first_token_ns = now_ns
        else:
            self.run.gap(now_ns - generation.token_ns[-1])
        generation.token_ns.append(now_ns)
        if len(generation.output) >= generation.params.max_tokens:
            self._end(generation, "complete")

    def _end(self, generation: Generation, end: End) -> None:
        generation.end, generation.ended_ns = end, self._now_ns
        self._admission.served(generation)
        self._scheduler.remove(generation)
        if quota := self._quotas.get(generation.tenant.name):
            quota.spend(tokens=len(generation.output))
        self.run.ended.append(Ended.of(generation))


def _by_name(api_keys: str) -> Mapping[str, Tenant] | None:
    found = tenants.load(Path(api_keys)).values() if api_keys else None
    return None if found is None else {tenant.name: tenant for tenant in found}
