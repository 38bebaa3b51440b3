"""Commands that ask before the users come: what a policy would do to a trace, how many GPUs a peak needs."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from ..options import folder_option, option, since_option, some_api_option, step_options


@click.command()
@click.argument("trace")
@option("--rate", type=click.FloatRange(0.001, 1000), default=1.0, help="So many times the trace's requests a second.")
@step_options
@option("--max-context", type=int, default=0, metavar="TOKENS", help="Longest request; 0: that of the trace.")
@option("--max-running", type=int, default=8, metavar="N", help="Requests that are computed together.")
@option("--max-waiting", type=int, default=64, metavar="N", help="Requests that queue; more are shed.")
@option("--prefill-chunk", type=int, default=128, metavar="TOKENS", help="Prompt tokens a step.")
@option("--kv-pages", type=int, default=0, metavar="N", help="KV cache in pages of 16 tokens; 0 holds everything.")
@option("--prefix-cache/--no-prefix-cache", default=True, help="Share what prompts that begin alike computed.")
@option("--batch-delay", type=float, default=0.0, metavar="MS", help="What an idle engine waits.")
@option(
    "--api-keys", default="", metavar="FILE", help="Weights, priorities and quotas of the trace's tenants, in TOML."
)
@option("--deadline", type=click.FloatRange(min=0), default=None, metavar="S", help="When nobody waits any more.")
@option("--against", multiple=True, metavar="NAME=VALUE", help="Another policy beside it; repeatable.")
@since_option("1d")
@option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@some_api_option
@folder_option
def simulate(
    *, trace: str, rate: float, step: tuple[float, float, float] | None, instance: str | None, max_context: int,
    batch_delay: float, deadline: float | None, against: tuple[str, ...], since: timedelta, as_json: bool,
    api: str | None, data: Path | None, **settings: Any,
) -> None:  # fmt: skip
    """Try a policy of the runtime on a TRACE, in seconds: its scheduler on a clock that only computes.

    TRACE is a file as Azure or Mooncake publish theirs, or `azure-conversation`, ten minutes of a real service. How
    long a step takes is fitted to the engine's samples of --since, unless --step says it. The other options are those
    of `tailbudget runtime`.

    Example: tailbudget simulate azure-conversation --step 12,0.4,0.05 --max-running 32 --against max-running=64
    """
    from tailbudget.gpu_runtime.settings import RuntimeSettings

    from .. import simulate as trial
    from ..steps import step_time
    from ..trace_files import read

    arrivals = read(trace, rate=rate)
    time = step_time(step, instance=instance, since=since, api=api, data=data)
    context = max_context or max(16, trial.longest(arrivals))
    policy = trial.Policy(
        RuntimeSettings(max_context=context, batch_delay_ms=batch_delay, **settings), deadline_s=deadline
    )
    found = trial.try_policies(arrivals, step_time=time, policy=policy, against=against)
    click.echo(trial.to_json(found, time) if as_json else trial.report(found, time), nl=False)


COMMANDS = (simulate,)
