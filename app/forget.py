"""`tailbudget forget`: through the running collector, or in a data folder that no collector has open."""

from pathlib import Path
from typing import Final

from tailbudget.collector.land.forgetting import Forget, Forgotten

from .deeds import do

#: Row groups that hold a forgotten row are written anew: about 10 s for each million rows of the tables.
TIMEOUT_S: Final = 3600


def through_api(api: str, what: Forget) -> Forgotten:
    """Return what the collector at `api` forgot. Raises QueryError."""
    fields = {"tenant": what.tenant, "request": what.request}
    hint = "start `tailbudget collector`, or name --data"
    return Forgotten(**do(api, "/v1/forget", fields, timeout_s=TIMEOUT_S, hint=hint))


def in_folder(data: Path, what: Forget) -> Forgotten:
    """Return what was forgotten in the folder, whose journal lands first. Raises UserError when it is in use."""
    from tailbudget.collector.collector import Collector
    from tailbudget.collector.settings import CollectorSettings
    from tailbudget.instrument.errors import UserError

    if not (data / "tailbudget.duckdb").exists():
        raise UserError(f"no database in {data}: name the --data of a collector")
    collector = Collector(CollectorSettings(data=data, content="keep"))  # what was journaled is treated already
    try:
        return collector.erasures.ask(what).result()
    finally:
        collector.close()
