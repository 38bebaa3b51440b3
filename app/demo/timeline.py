"""What happens when in the demo, in seconds since the first answered request."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Event:
    """At `at_s` the setting `key` of `target` (demo or runtime) becomes `value`."""

    at_s: float
    target: str
    key: str
    value: float
    says: str


#: 60 s of a slow index, then 90 s of a throttled decode; normal before, between and after.
EVENTS: Final = (
    Event(150, "demo", "slow_index_ms", 1500.0, "the index turns slow: 1.5 s a search"),
    Event(210, "demo", "slow_index_ms", 0.0, "the index is well again"),
    Event(270, "runtime", "step_delay_ms", 60.0, "decode is throttled: 60 ms more a step"),
    Event(360, "runtime", "step_delay_ms", 0.0, "decode is well again; traffic goes on until Ctrl-C"),
)
