"""Commands that ask before the users come: what a policy would do to a trace, how many GPUs a peak needs."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click

from ..options import folder_option, option, since_option, some_api_option, step_options

FILE: Final = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.argument("trace")
@option("--rate", type=click.FloatRange(0.001, 1000), default=1.0, help="So many times the trace's requests a second.")
@step_options
@option("--max-context", type=int, default=0, metavar="TOKENS", help="Longest request; 0: that of the trace.")
@option("--max-running", type=int, default=8, metavar="N", help="Requests that are computed together.")
@option("--max-waiting", type=int, default=64, metavar="N", help="Requests that queue; more are shed.")
@option("--prefill-chunk", type=int, default=128, metavar="TOKENS", help="Prompt tokens a step.")
@option("--kv-pages", type=int, default=0, metavar="N", help="KV cache in pages of 16 tokens; 0 holds everything.")
@option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="A page has 16 tokens, on a GPU 256.")
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

    TRACE is a file as Azure or Mooncake publish theirs, or a shipped sample: azure-conversation, azure-code, mooncake.
    How long a step takes is fitted to the engine's samples of --since, unless --step says it. The other options are
    those of `tailbudget runtime`.

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


@click.command()
@step_options
@option("--ttft", "ttft_ms", type=float, default=None, metavar="MS", help="Most to the first token.")
@option("--itl", "itl_ms", type=float, default=None, metavar="MS", help="Most between two tokens.")
@option("--final", "final_ms", type=float, default=None, metavar="MS", help="Most to the last token.")
@option("--share", type=float, default=None, show_default="0.95", help="Share of requests that must keep to it.")
@option(
    "--slo", multiple=True, type=FILE, help="Without limits: a file of objectives on ttft, tpot, model; repeatable."
)
@option("--max-running", type=int, default=0, metavar="N", help="Requests that run at once; 0: the best number.")
@option("--prefill-chunk", type=int, default=128, metavar="TOKENS", help="Prompt tokens a step.")
@option("--kv-tokens", type=int, default=None, metavar="TOKENS", help="Tokens that the KV cache holds.")
@option("--headroom", type=float, default=0.2, help="Share of the peak that is free beside it.")
@option("--gpus", type=int, default=1, metavar="N", help="GPUs of a replica.")
@option("--price", "usd_per_gpu_hour", type=float, default=None, metavar="USD", help="Dollars a GPU hour.")
@option("--mix", multiple=True, metavar="PROMPT:ANSWER[:WEIGHT]", help="Tokens of a request, not those stored.")
@option("--peak", type=click.FloatRange(min=0, min_open=True), default=None, help="With --mix: requests a second.")
@since_option("7d")
@option("--json", "as_json", is_flag=True, help="One JSON array, an object a region.")
@some_api_option
@folder_option
def capacity(
    *, step: tuple[float, float, float] | None, instance: str | None, ttft_ms: float | None, itl_ms: float | None,
    final_ms: float | None, share: float | None, slo: tuple[Path, ...], max_running: int, prefill_chunk: int,
    mix: tuple[str, ...], peak: float | None, since: timedelta, as_json: bool, api: str | None, data: Path | None,
    **terms: Any,
) -> None:  # fmt: skip
    """Say how many replicas and GPU hours the peak needs, and what they cost: the p99 minute of --since, by region.

    Lengths, peak and tenants are those of the stored calls, a step is fitted to the engine's samples; --mix with
    --peak, and --step, say them instead.

    Example: tailbudget capacity --ttft 500 --itl 50 --price 2.5 --since 7d
    """
    from tailbudget.analytics.capacity import Replica
    from tailbudget.analytics.worksheet import Terms, worksheet

    from .. import capacity as forms
    from ..steps import step_time, stored_demands

    limits = forms.limits(slo, share=share, ttft_ms=ttft_ms, itl_ms=itl_ms, final_ms=final_ms)
    asked = Terms(**terms)
    found = forms.given(mix, peak) or stored_demands(instance=instance, since=since, api=api, data=data)
    time = step_time(step, instance=instance, since=since, api=api, data=data)
    replica = Replica(**vars(time), max_running=max_running or asked.most_running, prefill_chunk=prefill_chunk)
    sheets = [worksheet(one, replica, limits=limits, terms=asked, best=not max_running) for one in found]
    click.echo(forms.to_json(sheets) if as_json else forms.report(sheets), nl=False)


COMMANDS = (simulate, capacity)
