"""The command that sends load, and finds how much of it a service carries."""

from pathlib import Path
from typing import Any

import click

from ..options import api_option, http_option, length_option, option

#: As `load/presets.py` has them, which takes longer to import than --help should.
PRESETS = ("leave-before", "leave-amid", "slow-reader", "slow-retrieval", "failing-retrieval", "slow-tools",
           "failing-tools", "oversized", "noisy-tenant", "rate-limits", "exporter-outage", "restart")  # fmt: skip
ARRIVALS = ("poisson", "gamma", "steady", "replay")


def _loads(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        found = (0.0,)
    if any(not load > 0 for load in found):
        raise click.BadParameter(f"{text!r}: expected loads such as 1,2,4,8", context, parameter)
    return found


OPTIONS = (
    option("--rate", type=click.FloatRange(0, min_open=True), help="Requests a second, sent whatever comes back."),
    option("--clients", type=click.IntRange(1), help="Clients that each wait for their answer, instead of a rate."),
    option(
        "--sweep", is_flag=True, help="Find the highest load at which every objective holds: 1 to 5 times the load."
    ),
    option("--loads", callback=_loads, metavar="A,B,C", help="The loads of a sweep: rates or numbers of clients."),
    option("--every", is_flag=True, help="Try each load of a sweep, instead of halving."),
    length_option("--duration", "duration", "30s", "How long a step sends: 30s, 5m, 2h."),
    option("--requests", type=click.IntRange(1), help="End a step after so many requests."),
    option("--arrivals", type=click.Choice(ARRIVALS), default="poisson", help="When requests of a rate are sent."),
    option("--cv", type=click.FloatRange(0.1, 20), default=3.0, help="Burstiness of gamma arrivals; poisson has 1."),
    option(
        "--trace",
        metavar="NAME|FILE",
        help="Lengths, times and prefixes from azure-conversation, azure-code, "
        "mooncake, sharegpt, or a file in one of their forms.",
    ),
    option("--in", "tokens_in", default="lognormal(128,0.8)", help="Prompt tokens: 256, normal(256,64), uniform(1,9)."),
    option("--out-tokens", "tokens_out", default="lognormal(64,0.6)", help="Answer tokens, written likewise."),
    option("--scale", type=click.FloatRange(0, min_open=True), default=1.0, help="Multiplies the lengths of a trace."),
    option("--most-in", type=click.IntRange(1), default=1 << 20, metavar="TOKENS", help="Longest prompt."),
    option("--most-out", type=click.IntRange(1), default=1 << 20, metavar="TOKENS", help="Longest answer."),
    option("--shared-prefix", type=click.IntRange(0), default=0, metavar="TOKENS", help="Beginning that all share."),
    option("--think", type=click.FloatRange(0), default=0.0, metavar="S", help="What a client waits between requests."),
    option("--tenants", type=click.IntRange(0), default=0, metavar="N", help="Tenants that the requests name."),
    option("--model", default="", help="Model to ask; the first that the endpoint names by default."),
    option("--api-key", default="", envvar="TAILBUDGET_LOAD_API_KEY", help="Bearer token of the endpoint."),
    option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Sent with each request; repeatable."),
    option(
        "--body",
        default='{"question": "{prompt}", "max_tokens": {max_tokens}}',
        metavar="JSON|@FILE",
        help="Body for a route of a service: {prompt}, {max_tokens} and {n} are filled in.",
    ),
    option("--method", type=click.Choice(["POST", "GET", "PUT"]), default="POST", help="Method for such a route."),
    option("--no-stream", is_flag=True, help="Ask a model for whole answers."),
    option("--timeout", type=click.FloatRange(0, min_open=True), default=60.0, metavar="S", help="All a request has."),
    option("--warmup", type=click.IntRange(0), default=1, metavar="N", help="Requests before, not counted."),
    option("--seed", type=int, default=1, help="The same seed sends the same."),
    option(
        "--slo",
        multiple=True,
        type=click.Path(path_type=Path),
        envvar="TAILBUDGET_SLO",
        show_default="slo.yaml",
        help="Objectives to hold it to; repeatable.",
    ),
    option("--preset", "presets", type=click.Choice(PRESETS), multiple=True, help="What goes wrong; repeatable."),
    option("--client", "crowd", multiple=True, metavar="WAYS", help="As share=0.1,leaves_after_s=2; repeatable."),
    option(
        "--soak",
        is_flag=True,
        help="Look for drift over --duration: latency, errors, token rate, memory.",
    ),
    option(
        "--memory", default="", metavar="PID|URL", help="The target's process or metrics, for its memory in a soak."
    ),
    option("--break", "breaks", default="", metavar="COMMAND", help="Run after a third of each step."),
    option("--mend", "mends", default="", metavar="COMMAND", help="Run after two thirds of each step."),
    option("--out", metavar="NAME", help="Write NAME.json, which is a baseline, and NAME.md."),
    option("--baseline", type=click.Path(path_type=Path), help="An earlier NAME.json: fail where this run is worse."),
    option("--json", "as_json", is_flag=True, help="One JSON object, for programs."),
)


@click.command()
@click.argument("url")
@api_option
@http_option
def load(**given: Any) -> None:
    """Send load to URL, an OpenAI-compatible endpoint (.../v1) or a route of a service, and hold it to objectives.

    Send times are fixed before and latency counts from them, so that a service that stalls is not spared. Ends with
    status 3 where an objective does not hold, where a sweep finds no load that does, or where a --baseline is missed.

    Example: tailbudget load http://127.0.0.1:8080/chat --rate 1 --sweep --slo slo.yaml
    """
    from ..load.command import Wanted, run

    status = run(Wanted(**given))
    if status:
        click.get_current_context().exit(status)


for one in reversed(OPTIONS):
    load = one(load)

COMMANDS = (load,)
