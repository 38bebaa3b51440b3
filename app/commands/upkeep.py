"""Commands that change what is stored."""

from pathlib import Path

import click

from ..options import api_option, option


@click.command()
@option("--tenant", default=None, help="Forget all traces of this tenant.")
@option("--request", default=None, help="Forget the trace of this request, by its request_id.")
@api_option
@click.option(
    "--data", type=click.Path(path_type=Path), default=None, help="In this folder, which no collector has open."
)
def forget(*, tenant: str | None, request: str | None, api: str, data: Path | None) -> None:
    """Delete a tenant or a request from all that is stored, down to the bytes of its files.

    Example: tailbudget forget --tenant acme
    """
    from tailbudget.collector.land.forgetting import Forget

    from .. import forget as forgetting

    what = Forget(tenant=tenant, request=request)
    found = forgetting.through_api(api, what) if data is None else forgetting.in_folder(data, what)
    rows = ", ".join(f"{n:,} of {table}" for table, n in found.rows.items())
    click.echo(f"forgot {found.traces:,} traces{f': {rows}' if rows else ''}")


COMMANDS = (forget,)
