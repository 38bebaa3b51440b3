"""`tailbudget forget`: through the running collector, or in a data folder that no collector has open."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from tailbudget.analytics.reader import QueryError, credentials, reason
from tailbudget.collector.land.forgetting import Forget, Forgotten

#: Row groups that hold a forgotten row are written anew: about 10 s for each million rows of the tables.
TIMEOUT_S: Final = 3600


def through_api(api: str, what: Forget) -> Forgotten:
    """Return what the collector at `api` forgot. Raises QueryError."""
    body = json.dumps({"tenant": what.tenant, "request": what.request}).encode()
    headers = {"Content-Type": "application/json", **credentials()}
    request = urllib.request.Request(f"{api.rstrip('/')}/v1/forget", body, headers)  # noqa: S310 - our own API
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return Forgotten(**json.loads(answer.read()))
    except urllib.error.HTTPError as error:
        raise QueryError(*reason(error)) from error
    except OSError as error:
        raise QueryError(
            f"no collector answers at {api}: {error}", "start `tailbudget collector`, or name --data"
        ) from error


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
