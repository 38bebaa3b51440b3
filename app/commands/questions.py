"""Commands that ask what happened."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from ..options import (
    Sources,
    api_option,
    folder_option,
    json_option,
    one_folder_option,
    option,
    since_option,
    some_api_option,
)


@click.command()
@click.argument("query")
@option("--json", "form", flag_value="json", help="One JSON array of objects.")
@option("--csv", "form", flag_value="csv", help="CSV with a header line.")
@option("--table", "form", flag_value="table", default="table", help="A table for people.")
@some_api_option
@folder_option
def sql(*, query: str, form: str, api: str | None, data: Sources) -> None:
    """Ask the running collector, or a data folder, one SQL question.

    Example: tailbudget sql "select route, quantile_cont(total_ms, 0.95), count(*) from requests group by all"
    """
    from ..sql import answer

    click.echo(answer(query, form=form, api=api, data=data), nl=False)


@click.command()
@api_option
@since_option("1d")
@json_option
def doctor(*, api: str, since: timedelta, as_json: bool) -> None:
    """Say which services send what, what is missing and the line that adds it; fails when no collector answers.

    Example: tailbudget doctor
    """
    from ..doctor import examine, report, to_json

    found = examine(api, span=since)
    click.echo(to_json(found) if as_json else report(found, now=datetime.now(UTC)), nl=False)


@click.command()
@since_option("1h")
@option(
    "--by",
    default="stage,route,model",
    help="Comma-separated: stage, a segment (service, tenant, route, model, provider, version, region, prompt_bucket, "
    "output_bucket, cache_hit, stream, conversation, role, outcome), or the name of any span attribute.",
)
@option("--measure", default="total_ms", help="What is measured: total_ms, ttft_ms, tpot_ms, decode_ms, ...")
@option("--route", default=None, help="Only requests of this route.")
@json_option
@some_api_option
@folder_option
def report(
    *, since: timedelta, by: str, measure: str, route: str | None, as_json: bool, api: str | None, data: Sources
) -> None:
    """Show percentiles of the requests so far back, by stage and by segment, each with its number.

    Example: tailbudget report --since 1h --by stage,model,tenant
    """
    from tailbudget.analytics.window import Window

    from .. import report as reports
    from ..reading import open_reader

    now = datetime.now(UTC)
    with open_reader(api=api, data=data) as reader:
        names = [name.strip() for name in by.split(",") if name.strip()]
        found = reports.compile_report(reader, Window(now - since, now, route=route), by=names, measure=measure)
    click.echo(reports.to_json(found) if as_json else reports.report(found), nl=False)


@click.command()
@since_option("1d")
@option("--by", default="tenant", help="Who causes it: a segment as of `report`, stage, or a span attribute.")
@option("--route", default=None, help="Only requests of this route.")
@json_option
@some_api_option
@folder_option
def cost(*, since: timedelta, by: str, route: str | None, as_json: bool, api: str | None, data: Sources) -> None:
    """Show what model calls cost and who causes it, what was wasted, hedges, and energy; dollars need --prices.

    Example: tailbudget cost --since 1d --by stage
    """
    from tailbudget.analytics.window import Window

    from .. import worth
    from ..reading import open_reader

    now = datetime.now(UTC)
    with open_reader(api=api, data=data) as reader:
        found = worth.costs(reader, Window(now - since, now, route=route), by=by)
    click.echo(worth.to_json(found) if as_json else worth.report(found), nl=False)


@click.command()
@since_option("7d")
@option("--route", default=None, help="Only requests of this route.")
@json_option
@some_api_option
@folder_option
def feedback(*, since: timedelta, route: str | None, as_json: bool, api: str | None, data: Sources) -> None:
    """Show what a second costs: completion, conversion and drops by how long the answer took, and who left waiting.

    Example: tailbudget feedback --since 7d --route /chat
    """
    from tailbudget.analytics.window import Window

    from .. import worth
    from ..reading import open_reader

    now = datetime.now(UTC)
    with open_reader(api=api, data=data) as reader:
        found = worth.waits(reader, Window(now - since, now, route=route))
    click.echo(worth.to_json(found) if as_json else worth.report(found), nl=False)


@click.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@some_api_option
@one_folder_option
def snapshot(*, out: Path, api: str | None, data: Path | None) -> None:
    """Copy everything that is stored to one file that any duckdb shell opens.

    Example: tailbudget snapshot incident.duckdb
    """
    from ..snapshot import snapshot as take

    click.echo(f"{out}: {take(out, api=api, data=data):,} bytes")


COMMANDS = (sql, doctor, report, cost, feedback, snapshot)
