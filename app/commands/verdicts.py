"""Commands that judge: sags of the token rate, who is to blame, what changed."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from ..options import folder_option, json_option, option, sag_option, since_option, some_api_option


def baseline_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what a time is compared with."""
    for one in (
        option("--baseline", default="hour", help="Without --baseline-from: the same time an hour or a week before."),
        option("--baseline-to", "baseline_end", default=None, help="Its end, exclusive."),
        option("--baseline-from", "baseline_start", default=None, help="Start of a time in which all was well."),
    ):
        command = one(command)
    return command


@click.group()
def sag() -> None:
    """Judge token rates.

    Example: tailbudget sag test bins.parquet
    """


@sag.command("test")
@click.argument("file", type=click.Path(path_type=Path))
@sag_option
@option("--json", "as_json", is_flag=True, help="One JSON array, an object a series.")
def sag_test(*, file: Path, sag: str, as_json: bool) -> None:
    """Run the sag detector over bins of 10 s in a Parquet FILE: series, t, tokens, active_stream_s, streams.

    Example: tailbudget sag test bins.parquet --json
    """
    from tailbudget.analytics.sag import SagSettings

    from ..sag_test import back_test, report, to_json

    names, found = back_test(file, SagSettings.parse(sag))
    click.echo(to_json(names, found) if as_json else report(names, found), nl=False)


@click.command()
@option("--from", "start", required=True, help="Start of the incident, as in 2026-03-01T12:00:00Z.")
@option("--to", "end", required=True, help="End of the incident, exclusive.")
@baseline_options
@option(
    "--by",
    default="service",
    help="What to blame: service, operation, stage, another segment, or a span attribute by its name.",
)
@json_option
@some_api_option
@folder_option
def blame(
    *, start: str, end: str, baseline_start: str | None, baseline_end: str | None, baseline: str, by: str,
    as_json: bool, api: str | None, data: Path | None,
) -> None:  # fmt: skip
    """Rank who adds time to requests in a window, against a baseline.

    Example: tailbudget blame --from 2026-03-01T12:00Z --to 2026-03-01T12:10Z --by operation
    """
    from tailbudget.analytics import blame as verdict

    from .. import blame as forms
    from ..reading import open_reader

    window, usual = forms.windows(start, end, baseline_start, baseline_end, baseline=baseline)
    with open_reader(api=api, data=data) as reader:
        found = verdict.blame(reader, window, baseline=usual, by=by)
    click.echo(forms.to_json(found) if as_json else forms.report(found), nl=False)


@click.command()
@click.argument("sides", nargs=-1, metavar="[BY A B]")
@since_option("1d")
@option("--from", "start", default=None, help="Without BY: start of the time that is compared with a baseline.")
@option("--to", "end", default=None, help="Its end, exclusive.")
@baseline_options
@json_option
@some_api_option
@folder_option
def compare(
    *, sides: tuple[str, ...], since: timedelta, start: str | None, end: str | None, baseline_start: str | None,
    baseline_end: str | None, baseline: str, as_json: bool, api: str | None, data: Path | None,
) -> None:  # fmt: skip
    """Say what changed from requests whose BY is A to those whose BY is B; or, with --from and --to, since a baseline.

    BY is version, model, tenant, route, region, run_id (of load runs) or any attribute of the request's span, such as
    a flag.

    Example: tailbudget compare version 1.4.0 1.5.0 --since 6h
    """
    from tailbudget.analytics import compare as verdict

    from .. import compare as forms
    from ..blame import windows as baseline_windows
    from ..reading import open_reader

    if start and end and not sides:
        usual = baseline_windows(start, end, baseline_start, baseline_end, baseline=baseline)
        compared = [verdict.Side(window) for window in reversed(usual)]
    else:
        compared = forms.sides(sides, since=since, now=datetime.now(UTC))
    with open_reader(api=api, data=data) as reader:
        found = verdict.compare(reader, *compared)
    click.echo(forms.to_json(found) if as_json else forms.report(found), nl=False)


@click.command()
@since_option("1h")
@option("--set", "settings", multiple=True, metavar="RULE.SETTING=NUMBER", help="Another threshold; repeatable.")
@json_option
@some_api_option
@folder_option
def diagnose(*, since: timedelta, settings: tuple[str, ...], as_json: bool, api: str | None, data: Path | None) -> None:
    """List what is wrong, by the rules of docs/diagnoses.md, and the setting or call that would mend it.

    Example: tailbudget diagnose --since 1h --set queue_deep.most_waiting=50
    """
    from tailbudget.analytics.diagnoses import findings
    from tailbudget.analytics.window import Window

    from .. import diagnose as forms
    from ..reading import open_reader

    now = datetime.now(UTC)
    wanted = forms.parse_settings(settings)
    with open_reader(api=api, data=data) as reader:
        found = findings(reader, Window(now - since, now), settings=wanted)
    click.echo(forms.to_json(found) if as_json else forms.report(found), nl=False)


COMMANDS = (sag, blame, compare, diagnose)
