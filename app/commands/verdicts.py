"""Commands that judge: sags of the token rate, who is to blame."""

from pathlib import Path

import click

from ..options import option, sag_option


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


COMMANDS = (sag,)
