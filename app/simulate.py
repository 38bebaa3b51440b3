"""`tailbudget simulate`: a trace served by one or two policies, side by side."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pyarrow as pa

from tailbudget.gpu_runtime.settings import RuntimeSettings
from tailbudget.gpu_runtime.simulated import PERCENTILES, Run
from tailbudget.gpu_runtime.simulator import Arrival, StepTime, simulate
from tailbudget.instrument.errors import UserError

from .text import to_text


def _switch(text: str) -> bool:
    try:
        return {"on": True, "off": False}[text]
    except KeyError:
        raise ValueError("on or off") from None


#: What a policy may set, by the runtime's option -> its setting and how its text is read.
SETTINGS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "max-context": ("max_context", int),
    "max-running": ("max_running", int),
    "max-waiting": ("max_waiting", int),
    "prefill-chunk": ("prefill_chunk", int),
    "kv-pages": ("kv_pages", int),
    "device": ("device", str),
    "prefix-cache": ("prefix_cache", _switch),
    "batch-delay": ("batch_delay_ms", float),
    "step-delay": ("step_delay_ms", float),
    "api-keys": ("api_keys", str),
}
DEADLINE: Final = "deadline"
#: What people read, in this order -> its name; percentiles stand before it.
SHOWN: Final[Mapping[str, str]] = {
    "requests": "requests", "complete": "served to the end", "shed": "shed (503)", "over_quota": "over quota (429)",
    "expired": "past the deadline", "too_long": "too long (400)", "utilisation": "utilisation", "step_ms": "step ms",
    "batch": "batch, mean a step", "most_running": "batch, most", "waiting": "waiting, mean", "most_waiting":
    "waiting, most", "most_kv_used": "KV cache, most", "preemptions": "preemptions", "prefix_hits": "prefix hits",
    "tokens_per_s": "tokens a second",
}  # fmt: skip
MEASURES: Final = ("queue", "ttft", "itl", "final")
TENANT_SHOWN: Final = ("requests", "complete", "shed", "over_quota", "queue_p95_ms", "ttft_p95_ms", "final_p95_ms")


@dataclass(frozen=True)
class Policy:
    """How requests are served: the runtime's settings, and after how many seconds nobody waits any more."""

    settings: RuntimeSettings
    deadline_s: float | None = None

    def against(self, changes: Iterable[str]) -> "Policy":
        """Return this policy with changes such as `prefill-chunk=512`; UserError for one that is not understood."""
        changed = self
        for change in changes:
            changed = changed._changed(change)
        return changed

    def _changed(self, change: str) -> "Policy":
        option, _, text = change.partition("=")
        option = option.strip().replace("_", "-")
        name, parse = SETTINGS.get(option, (option, float))
        try:
            value = parse(text.strip())
        except ValueError as error:
            raise UserError(f"--against {change!r} is not understood: expected {option}=VALUE ({error})") from error
        if option == DEADLINE:
            return replace(self, deadline_s=value)
        if option not in SETTINGS:
            known = ", ".join([*SETTINGS, DEADLINE])
            raise UserError(f"--against {change!r}: expected NAME=VALUE with one of {known}")
        return replace(self, settings=replace(self.settings, **{name: value}))


@dataclass(frozen=True)
class Trial:
    """What came of a policy."""

    policy: Policy
    run: Run
    named: Sequence[str] = field(default=())


def try_policies(
    arrivals: Sequence[Arrival], *, step_time: StepTime, policy: Policy, against: Sequence[str] = ()
) -> list[Trial]:
    """Serve the arrivals by the policy, and by the one that `against` makes of it if it changes anything."""
    policies = [(policy, ())] + ([(policy.against(against), tuple(against))] if against else [])
    return [
        Trial(
            one, simulate(arrivals, step_time=step_time, settings=one.settings, deadline_s=one.deadline_s), tuple(named)
        )
        for one, named in policies
    ]


def longest(arrivals: Iterable[Arrival]) -> int:
    """Return the tokens of the longest request, prompt and answer."""
    return max(arrival.prompt_tokens + arrival.output_tokens for arrival in arrivals)


def to_json(trials: Sequence[Trial], step_time: StepTime) -> str:
    """Return one JSON object: the step's formula, and of each policy its settings, figures, and those by tenant."""
    policies = [
        {
            "settings": {name: getattr(one.policy.settings, name) for name, _ in SETTINGS.values()}
            | {"deadline_s": one.policy.deadline_s},
            **one.run.summary(),
            "by_tenant": one.run.by_tenant(),
        }
        for one in trials
    ]
    return json.dumps({"step": vars(step_time), "policies": policies}, indent=2) + "\n"


def report(trials: Sequence[Trial], step_time: StepTime) -> str:
    """Return what people read: a column a policy, then, where the trace has tenants, a table of them a policy."""
    summaries = [one.run.summary() for one in trials]
    names = ["as given", *(", ".join(one.named) for one in trials[1:])]
    measures = {f"{measure}_p{q}_ms": f"{measure} p{q} ms" for measure in MEASURES for q in PERCENTILES}
    rows = [
        {"": words, **{name: summary[key] for name, summary in zip(names, summaries, strict=True)}}
        for key, words in {**measures, **SHOWN}.items()
    ]
    formula = (
        f"a step takes {step_time.base_ms:g} ms, {step_time.stream_ms:g} ms more a stream and "
        f"{step_time.prompt_token_ms:g} ms a prompt token; {summaries[0]['length_s']:,.0f} s simulated"
    )
    return "\n".join([formula, "", _table(rows), *_tenants(trials, names)])


def _tenants(trials: Sequence[Trial], names: Sequence[str]) -> Iterable[str]:
    for one, name in zip(trials, names, strict=True):
        found = one.run.by_tenant()
        if found.keys() != {""}:
            rows = [{"tenant": tenant, **{key: row[key] for key in TENANT_SHOWN}} for tenant, row in found.items()]
            yield f"by tenant, {name}\n{_table(rows)}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    numbers = [{key: float(value) if isinstance(value, int) else value for key, value in row.items()} for row in rows]
    return to_text(pa.Table.from_pylist(numbers)).rsplit("\n", 2)[0] + "\n"
