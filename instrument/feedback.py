"""What a user made of an answer, told later: a log record that is joined to its request by id."""

import math
import time

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.trace import INVALID_SPAN, format_span_id, set_span_in_context

from . import providers
from .guard import Guard
from .identity import MAX_ID_LENGTH
from .request import current_request
from .vocabulary import FEEDBACK_COMPLETED, FEEDBACK_CONVERTED, FEEDBACK_EVENT, FEEDBACK_SCORE, REQUEST_ID


def request_id() -> str | None:
    """Return the id of the current request, to hand to a client that may send feedback; None outside of one."""
    request = current_request()
    if request is None:
        return None
    return request.request_id or format_span_id(request.span.get_span_context().span_id)


@Guard("feedback")
def feedback(
    request_id: str, *, score: float | None = None, completed: bool | None = None, converted: bool | None = None
) -> None:
    """Say of the request with this id how good its answer was, whether the user's task was completed or converted.

    Any time later, from any process. What is no id or no number is logged and ignored.
    """
    if not request_id or all(said is None for said in (score, completed, converted)):
        raise ValueError("feedback needs the request's id and one of score, completed and converted")
    if score is not None and not math.isfinite(score):
        raise ValueError(f"score is {score!r}: expected a finite number")
    said = {
        FEEDBACK_SCORE: None if score is None else float(score),
        FEEDBACK_COMPLETED: completed,
        FEEDBACK_CONVERTED: converted,
    }
    attributes = {name: value for name, value in said.items() if value is not None}
    now_ns = time.time_ns()
    providers.logger().emit(
        LogRecord(
            timestamp=now_ns,
            observed_timestamp=now_ns,
            context=set_span_in_context(INVALID_SPAN),  # not the request that brings the feedback
            severity_number=SeverityNumber.INFO,
            event_name=FEEDBACK_EVENT,
            attributes={REQUEST_ID: str(request_id)[:MAX_ID_LENGTH], **attributes},
        )
    )
