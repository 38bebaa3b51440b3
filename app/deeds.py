"""What commands ask a running collector to do, beyond answering questions."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from tailbudget.analytics.reader import QueryError, credentials, reason


def do(
    api: str,
    path: str,
    fields: Mapping[str, object],
    *,
    timeout_s: float = 60,
    hint: str = "start `tailbudget collector`",
) -> dict[str, Any]:
    """Return what the collector at `api` answers. Raises QueryError, with `hint` where nobody answers."""
    headers = {"Content-Type": "application/json", **credentials()}
    body = json.dumps(fields).encode()
    request = urllib.request.Request(f"{api.rstrip('/')}{path}", body, headers)  # noqa: S310 - our own API
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            found: dict[str, Any] = json.loads(answer.read())
            return found
    except urllib.error.HTTPError as error:
        raise QueryError(*reason(error)) from error
    except OSError as error:
        raise QueryError(f"no collector answers at {api}: {error}", hint) from error
