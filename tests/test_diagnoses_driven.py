"""Every diagnosis is tried on real parts, not on made-up rows alone: the trouble itself, and a twin without it."""

from importlib import import_module
from typing import Final

from tailbudget.analytics.diagnoses import rules

#: Rule -> the tests that drive it: programs, servers, engines and clients in processes of their own, over OTLP.
DRIVEN_BY: Final = {
    "agent_loop": ("service",),
    "batching_misconfig": ("engine",),
    "blocked_loop": ("guards",),
    "breaker_open": ("guards",),
    "buffered_stream": ("service",),
    "cache_hit_low": ("guards",),
    "cold_start": ("service", "engine"),
    "dropped": ("service",),
    "far_endpoint": ("service", "engine"),
    "hol_blocking": ("engine",),
    "kv_pressure": ("runtime",),
    "littles_law": ("littles_law",),
    "looks_fast_ends_late": ("engine",),
    "no_pooling": ("service",),
    "noisy_tenant": ("engine",),
    "output_uncapped": ("service",),
    "oversized_model": ("service",),
    "p95_over_2s": ("engine",),
    "prompt_bloat": ("service",),
    "queue_deep": ("guards", "runtime"),
    "queue_precedes_timeout": ("engine",),
    "rate_limited": ("service",),
    "scheduler_bug": ("engine",),
    "tool_series": ("service",),
    "unpredictable": ("engine",),
}
#: Rule -> why nothing real can be made to have its trouble here. None so far.
MADE_UP_ALONE: Final[dict[str, str]] = {}


def test_every_rule_is_driven_by_real_parts_or_says_why_not() -> None:
    assert {*DRIVEN_BY, *MADE_UP_ALONE} == set(rules())
    for rule, files in DRIVEN_BY.items():
        for name in files:
            assert rule in import_module(f"tests.test_diagnoses_{name}").RULES


def test_what_a_file_drives_is_in_the_table() -> None:
    for name in {each for files in DRIVEN_BY.values() for each in files}:
        driven = {rule for rule, files in DRIVEN_BY.items() if name in files}
        assert driven == set(import_module(f"tests.test_diagnoses_{name}").RULES)
