"""Seconds that the simulator takes for an hour of a real service, on policies of a small and a large engine.

python benchmarks/simulate.py [TRACE]      a trace file; without one the ten minutes that are shipped, six times over
"""

import sys
import time
from dataclasses import replace
from typing import Any, Final

from machine import describe

from tailbudget.app.simulate import longest
from tailbudget.app.trace_files import read
from tailbudget.gpu_runtime.settings import RuntimeSettings
from tailbudget.gpu_runtime.simulator import Arrival, StepTime, simulate

SAMPLE: Final = "azure-conversation"
LAPS, LAP_S = 6, 600
MOST_S: Final = 60
#: About what a model of 70 B parameters takes on four GPUs.
STEP: Final = StepTime(28, stream_ms=0.35, prompt_token_ms=0.06)
POLICIES: Final[dict[str, dict[str, Any]]] = {
    "64 at once": {"max_running": 64, "prefill_chunk": 1024, "max_waiting": 1000},
    "256 at once": {"max_running": 256, "prefill_chunk": 2048, "max_waiting": 1000},
    "256, no prefix cache": {"max_running": 256, "prefill_chunk": 2048, "max_waiting": 1000, "prefix_cache": False},
}


def _hour() -> list[Arrival]:
    if len(sys.argv) > 1:
        return read(sys.argv[1])
    lap = read(SAMPLE)
    return [replace(arrival, at_s=arrival.at_s + LAP_S * number) for number in range(LAPS) for arrival in lap]


def main() -> None:
    """Print one line a policy; ends with status 1 when one took longer than MOST_S."""
    print(describe())
    arrivals, slow = _hour(), False
    tokens = sum(arrival.output_tokens for arrival in arrivals)
    print(f"{len(arrivals):,} requests, {tokens / 1e6:.1f} M generated tokens, an hour")
    for name, settings in POLICIES.items():
        began_s, cpu_s = time.perf_counter(), time.process_time()
        run = simulate(arrivals, step_time=STEP, settings=RuntimeSettings(max_context=longest(arrivals), **settings))
        took_s, spent_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        found = run.summary()
        print(
            f"{name:22} {took_s:6.1f} s ({spent_s:.1f} CPU-s), limit {MOST_S}: {found['steps']:,} steps, batch "
            f"{found['batch']:.0f}, queue p95 {found['queue_p95_ms']:,.0f} ms, shed {found['shed']:,}"
        )
        slow |= spent_s > MOST_S
    sys.exit(int(slow))


if __name__ == "__main__":
    main()
