"""Commands about objectives."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from tailbudget.instrument.errors import UserError

from ..options import folder_option, json_option, option, since_option, some_api_option

FILES = click.argument("files", nargs=-1, type=click.Path(path_type=Path))
NEEDED = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.group()
def slo() -> None:
    """Objectives: what share of requests must meet which limits, and how much of the error budget is left.

    Example: tailbudget slo validate slo.yaml
    """


@slo.command()
@NEEDED
def validate(*, files: tuple[Path, ...]) -> None:
    """Check files of objectives, and say what each promises; a mistake is named by file and line.

    Example: tailbudget slo validate slo.yaml
    """
    from tailbudget.analytics.objectives import read

    from .. import slo as forms

    click.echo(forms.described(read(files)), nl=False)


@slo.command()
@FILES
@json_option
@some_api_option
@folder_option
def status(*, files: tuple[Path, ...], as_json: bool, api: str | None, data: Path | None) -> None:
    """Show how much of each error budget is left and how fast it burns; of FILES, else of what the collector watches.

    Example: tailbudget slo status
    """
    from tailbudget.analytics.objectives import load

    from .. import slo as forms
    from ..reading import open_reader

    objectives = load(files)
    with open_reader(api=api, data=data) as reader:
        rows = forms.status(reader, objectives, now=datetime.now(UTC))
    click.echo(forms.to_json(rows) if as_json else forms.status_report(rows, objectives), nl=False)


@slo.command("test")
@NEEDED
@since_option("7d")
@option("--fail-on", type=click.Choice(["nothing", "ticket", "page"]), default="nothing", help="Exit 1 if one fired.")
@json_option
@some_api_option
@folder_option
def back_test(
    *, files: tuple[Path, ...], since: timedelta, fail_on: str, as_json: bool, api: str | None, data: Path | None
) -> None:
    """Say what objectives would have fired on what is stored, when and for how long.

    Example: tailbudget slo test slo.yaml --since 7d --fail-on page
    """
    from tailbudget.analytics.objectives import load

    from .. import slo as forms
    from ..reading import open_reader

    objectives, now = load(files), datetime.now(UTC)
    with open_reader(api=api, data=data) as reader:
        rows = forms.fired(reader, objectives, since=now - since, until=now)
        unseen = [] if as_json else forms.unseen(reader, objectives, now=now)
    click.echo(forms.to_json(rows) if as_json else forms.fired_report(rows, objectives, unseen=unseen), nl=False)
    counted = {"nothing": (), "ticket": ("ticket", "page"), "page": ("page",)}[fail_on]
    if any(row["severity"] in counted for row in rows):
        raise UserError(f"the objectives would have fired: see above, or loosen --fail-on {fail_on}")


@slo.command()
@option("--total", default="p95 < 2.5s", help="Promise for the whole request.")
@option("--route", default=None, help="Only requests of this route.")
@since_option("7d")
@some_api_option
@folder_option
def suggest(*, total: str, route: str | None, since: timedelta, api: str | None, data: Path | None) -> None:
    """Share a total out to the stages, from how long each has taken; prints a file of objectives.

    Example: tailbudget slo suggest --total "p95 < 2.5s" --route /chat > slo.yaml
    """
    from tailbudget.analytics import suggest as shares
    from tailbudget.analytics.objectives.tree import Tree
    from tailbudget.analytics.objectives.words import threshold
    from tailbudget.analytics.window import Window

    from .. import slo as forms
    from ..reading import open_reader

    _, limit = threshold(Tree(total, Path("--total"), 1), "total")
    now = datetime.now(UTC)
    with open_reader(api=api, data=data) as reader:
        found = shares.suggest(reader, Window(now - since, now, route=route), total_ms=limit.below_ms)
    click.echo(forms.suggested(found, total=total, route=route), nl=False)


@slo.group()
def export() -> None:
    """Write objectives down for other tools, which read the collector's /metrics.

    Example: tailbudget slo export prometheus slo.yaml
    """


@export.command()
@NEEDED
def prometheus(*, files: tuple[Path, ...]) -> None:
    """Print recording and alerting rules for Prometheus.

    Example: tailbudget slo export prometheus slo.yaml > rules.yaml
    """
    from tailbudget.analytics.objectives import export as forms
    from tailbudget.analytics.objectives import load

    click.echo(forms.prometheus(load(files)), nl=False)


@export.command()
@NEEDED
def grafana(*, files: tuple[Path, ...]) -> None:
    """Print a dashboard for Grafana, over the rules of `slo export prometheus`.

    Example: tailbudget slo export grafana slo.yaml > dashboard.json
    """
    import json

    from tailbudget.analytics.objectives import export as forms
    from tailbudget.analytics.objectives import load

    click.echo(json.dumps(forms.grafana(load(files)), indent=2))


COMMANDS = (slo,)
