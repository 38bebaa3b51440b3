"""Diagnoses: what is wrong by the rules of the views `diag_<rule>`, over any time, and what would mend it."""

import math
import re
from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from tailbudget.instrument.errors import UserError
from tailbudget.instrument.vocabulary import Stage

from .questions import sql
from .reader import Reader
from .window import Window

#: Rule -> the stage whose owner it is for; the others are about a whole route.
STAGE_OF: Final[Mapping[str, Stage]] = {
    "agent_loop": "tools",
    "batching_misconfig": "queue",
    "breaker_open": "tools",
    "cache_hit_low": "retrieval",
    "cold_start": "prefill",
    "far_endpoint": "network",
    "hol_blocking": "queue",
    "kv_pressure": "queue",
    "no_pooling": "network",
    "noisy_tenant": "queue",
    "output_uncapped": "decode",
    "oversized_model": "decode",
    "prompt_bloat": "prompt",
    "queue_deep": "queue",
    "queue_precedes_timeout": "queue",
    "rate_limited": "network",
    "scheduler_bug": "queue",
    "tool_series": "tools",
}
#: Rule -> setting -> value, for those that shall differ from their default in the rule's file.
Settings = Mapping[str, Mapping[str, float]]


def findings(reader: Reader, window: Window, *, settings: Settings | None = None) -> pa.Table:
    """Return one row a finding, newest first: rule, found_at, scope, severity, evidence, advice, saves_ms, request_id.

    `scope` and `evidence` are JSON, `saves_ms` what the advice would save (null where it cannot be told), `request_id`
    a request that shows it, if one does. Of a window with a route, tenant or model only what is about that one. Raises
    UserError for a rule that does not exist or a value that is no number, QueryError for a setting that the rule does
    not have.
    """
    text = sql("diagnoses")
    for rule, values in (settings or {}).items():
        call = f"found_{rule}($from_ts::timestamptz, $to_ts::timestamptz"
        if call not in text:
            raise UserError(f"unknown diagnosis {rule!r}: expected one of {', '.join(rules())}")
        text = text.replace(call, call + "".join(f", {_setting(*each)}" for each in values.items()))
    return reader.query(text, window.params())


def rules() -> tuple[str, ...]:
    """Return the names of all rules, sorted."""
    return tuple(re.findall(r"select '(\w+)' as rule", sql("diagnoses")))


def _setting(name: str, value: float) -> str:
    if not re.fullmatch(r"[a-z]\w*", name) or not math.isfinite(value):
        raise UserError(f"setting {name!r} is {value!r}: expected a name and a finite number, as in most_waiting=50")
    return f"{name} := {value!r}"
