"""Commands that bring telemetry in."""

import json
import os
from contextlib import closing
from pathlib import Path

import click

from ..options import http_option, json_option, token_option


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@http_option
@token_option
@json_option
def ingest(*, files: tuple[Path, ...], http: str, token_file: Path | None, as_json: bool) -> None:
    """Send files to the running collector: OTLP protobuf bodies, OTLP JSON lines, Jaeger JSON, gzipped or not.

    What had been sent before is not stored again. Fails when anything could not be read or was refused, naming file
    and line, after sending all the rest.

    Example: tailbudget ingest traces.json capture/*.pb.gz
    """
    from tailbudget.collector.token import read_token
    from tailbudget.instrument.errors import UserError

    from ..ingest.send import Sender, total

    token = read_token(token_file) if token_file else os.environ.get("TAILBUDGET_TOKEN", "").strip() or None
    outcomes = []
    with closing(Sender(http, token=token)) as sender:
        for file in files:
            outcome = sender.send(file)
            outcomes.append(outcome)
            if not as_json:
                click.echo(outcome.line())
                for fault in outcome.faults:
                    click.echo(fault, err=True)
    everything = total(outcomes)
    if as_json:
        click.echo(json.dumps({"files": [one.row() for one in outcomes], "total": everything.row()}))
    elif len(outcomes) > 1:
        click.echo(everything.line())
    if everything.faults:
        places = "1 place" if len(everything.faults) == 1 else f"{len(everything.faults)} places"
        raise UserError(f"not all of it was stored: {places} could not be read or were refused")


COMMANDS = (ingest,)
