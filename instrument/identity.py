"""What names a request: its route, id and tenant, and the load run it may belong to."""

from opentelemetry import baggage
from opentelemetry.context import Context
from opentelemetry.util.types import AttributeValue

from .vocabulary import REQUEST, REQUEST_ID, RUN_ID, SYNTHETIC, TENANT

#: A caller may send anything as its id.
MAX_ID_LENGTH = 128


def request_attributes(
    route: str, *, tenant: str | None, request_id: str | None, context: Context | None = None
) -> dict[str, AttributeValue]:
    """Return the attributes of a request, which an empty `route` does not mark.

    Id and tenant fall back to the caller's baggage; a load run or a probe says there that the request is synthetic.
    """
    heard = baggage.get_all(context) if context is None or context else None  # an empty one has none
    if not (heard or route or request_id or tenant):
        return {}
    said: dict[str, object] = {REQUEST: route, REQUEST_ID: request_id, TENANT: tenant}
    if heard:
        said |= {name: said.get(name) or heard.get(name) for name in (REQUEST_ID, TENANT, RUN_ID)}
    found: dict[str, AttributeValue] = {name: str(value)[:MAX_ID_LENGTH] for name, value in said.items() if value}
    return found | {SYNTHETIC: True} if heard and heard.get(SYNTHETIC) == "true" else found
