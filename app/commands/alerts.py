"""Commands about alerts, marks and incidents."""

import getpass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from tailbudget.instrument.errors import UserError

from ..options import api_option, folder_option, json_option, length_option, option, since_option, some_api_option

BY = option("--by", default=None, help="Who you are; else your user name.")


@click.group()
def alerts() -> None:
    """Alerts: which are open, who took them, and who is told.

    Example: tailbudget alerts list
    """


@alerts.command("list")
@since_option("1d")
@json_option
@some_api_option
@folder_option
def show(*, since: timedelta, as_json: bool, api: str | None, data: Path | None) -> None:
    """List the alerts that are open, or that ended lately, with the channels that were told of them.

    Example: tailbudget alerts list --since 7d
    """
    from .. import alerts as forms
    from ..reading import open_reader

    with open_reader(api=api, data=data) as reader:
        rows = forms.listed(reader, since=datetime.now(UTC) - since)
    click.echo(forms.to_json(rows) if as_json else forms.report(rows), nl=False)


@alerts.command()
@click.argument("alert")
@BY
@api_option
def ack(*, alert: str, by: str | None, api: str) -> None:
    """Take open alerts: nobody is told of them again before they end. ALERT is an id, or how those of several begin.

    Example: tailbudget alerts ack "burn|chat.total"
    """
    from ..deeds import do

    found = do(api, "/v1/alerts/ack", {"alert": alert, "by": by or getpass.getuser()})
    for alert_id in found["alert_ids"]:
        click.echo(f"{alert_id} is with {found['acknowledged_by']}")


@alerts.command()
@click.argument("labels", nargs=-1, required=True, metavar="NAME=VALUE...")
@length_option("--for", "lasts", "2h", "For how long: 30m, 2h, 7d.")
@BY
@option("--comment", default="", help="Why.")
@api_option
def silence(*, labels: tuple[str, ...], lasts: timedelta, by: str | None, comment: str, api: str) -> None:
    """Tell nobody of alerts that have all these labels: kind, rule, severity, owner, model, objective, tenant, ...

    Example: tailbudget alerts silence rule=chat.total --for 2h --comment "new index"
    """
    from ..deeds import do

    pairs = dict(text.split("=", 1) for text in labels if "=" in text)
    if len(pairs) < len(labels):
        raise UserError(f"{' '.join(labels)!r}: expected NAME=VALUE, each name once, as in rule=chat.total")
    until = datetime.now(UTC) + lasts
    fields = {"labels": pairs, "until": until.isoformat(), "by": by or getpass.getuser(), "comment": comment}
    found = do(api, "/v1/alerts/silence", fields)
    click.echo(f"silence {found['silence_id']} until {until:%Y-%m-%d %H:%M}Z")


@alerts.command("test")
@option("--channel", default=None, help="Only this one.")
@api_option
def try_out(*, channel: str | None, api: str) -> None:
    """Send a test message to every channel of the objectives file, and say what each answered.

    Example: tailbudget alerts test
    """
    from ..deeds import do

    answers = do(api, "/v1/alerts/test", {"channel": channel} if channel else {})["channels"]
    for name, answer in answers.items():
        click.echo(f"{name}: {answer}")
    if wrong := [name for name, answer in answers.items() if answer != "ok"]:
        raise UserError(f"{len(wrong)} of {len(answers)} channels did not take the message: {', '.join(wrong)}")


@click.command()
@click.argument("text")
@option("--service", default=None, help="Where it happened.")
@BY
@api_option
def mark(*, text: str, service: str | None, by: str | None, api: str) -> None:
    """Write down what you did just now, to be seen beside what the latency did.

    Example: tailbudget mark "rolled the index back"
    """
    from ..deeds import do

    do(api, "/v1/marks", {"text": text, "service": service, "by": by or getpass.getuser()})
    click.echo("marked")


@click.command()
@option("--from", "start", required=True, help="Start of the incident, as in 2026-03-01T12:00:00Z.")
@option("--to", "end", required=True, help="End of the incident, exclusive.")
@option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write, new or empty.")
@some_api_option
@folder_option
def incident(*, start: str, end: str, out: Path, api: str | None, data: Path | None) -> None:
    """Write one folder about an incident: a report, the rows it rests on, and the SQL to ask them again.

    Example: tailbudget incident --from 2026-03-01T12:00Z --to 2026-03-01T12:30Z --out ./incident
    """
    from tailbudget.analytics.window import Window

    from .. import incident as forms
    from ..blame import parse_instant
    from ..reading import open_reader

    with open_reader(api=api, data=data) as reader:
        report = forms.write(reader, Window(parse_instant(start), parse_instant(end)), out)
    click.echo(report)


COMMANDS = (alerts, mark, incident)
