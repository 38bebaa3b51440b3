"""The runtime's settings, checked before anything is loaded."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

from tailbudget.instrument.errors import UserError

#: How weights are held. `auto` holds 4-bit matrices of a file as they are, and everything else in bfloat16.
Form = Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"]
Device = Literal["auto", "cpu", "cuda"]
#: Setting -> smallest and largest value, and its unit for the error.
LIMITS: dict[str, tuple[float, float, str]] = {
    "port": (0, 65535, "port number"),
    "step_delay_ms": (0, 10_000, "milliseconds"),
    "max_context": (16, 1_000_000, "tokens"),
    "max_running": (1, 256, "requests"),
    "max_waiting": (1, 100_000, "requests"),
    "prefill_chunk": (1, 100_000, "tokens"),
    "batch_delay_ms": (0, 10_000, "milliseconds"),
    "drain_s": (0, 3600, "seconds"),
    "speculate": (0, 15, "tokens"),
    "kv_pages": (0, 10_000_000, "pages of 16 tokens"),
}


@dataclass(frozen=True)
class RuntimeSettings:
    """What `serve` needs to know; UserError when a value is out of its range.

    `model`: a name that `models.fetch` knows, or the path of a GGUF file or of a folder with safetensors. `dtype`: the
    form of the weights. `device`: where it computes; `auto` takes a GPU where there is one. `step_delay_ms`: added to
    every step that decodes. `control`: allows `POST /control` from loopback. `kv_pages`: the KV cache in pages of 16
    tokens, of which only what is used takes memory; 0 holds `max_running` x `max_context` tokens. `prefix_cache`:
    keeps what ended requests computed for those that begin alike. `prefill_chunk`: prompt tokens a step, so that no
    prompt holds up the running streams for longer than one chunk. `max_waiting`: beyond it a request is refused with
    503. `speculate`: how many tokens to guess a step from where the last ones stood before. `batch_delay_ms`: how long
    an idle engine waits for more requests after the first. `drain_s`: what running requests get to end after a signal.
    `api_keys`: a file of `tenants.load`; without one, everybody may ask.
    """

    model: str = "smollm2"
    _: KW_ONLY
    host: str = "127.0.0.1"
    port: int = 8000
    served_name: str = ""
    dtype: Form = "auto"
    device: Device = "auto"
    step_delay_ms: float = 0.0
    control: bool = False
    max_context: int = 4096
    max_running: int = 8
    max_waiting: int = 64
    prefill_chunk: int = 128
    kv_pages: int = 0
    prefix_cache: bool = True
    batch_delay_ms: float = 0.0
    drain_s: float = 5.0
    speculate: int = 0
    api_keys: str = ""

    def __post_init__(self) -> None:
        for name, (low, high, unit) in LIMITS.items():
            check(name, getattr(self, name), low=low, high=high, unit=unit)
        for name, chosen, known in (("dtype", self.dtype, Form), ("device", self.device, Device)):
            if chosen not in get_args(known):
                raise UserError(f"{name} is {chosen!r}: expected one of {', '.join(get_args(known))}")


def check(name: str, value: object, *, low: float, high: float, unit: str) -> float:
    """Return `value`; UserError unless it is a number between `low` and `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name} is {value!r}: expected {low:g} to {high:g} {unit}")
    return value
