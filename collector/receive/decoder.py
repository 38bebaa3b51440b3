"""Chooses what decodes bodies: the extension in C where it was built, else the reference in Python.

TAILBUDGET_DECODER=python takes the reference although the extension is there; TAILBUDGET_REQUIRE_NATIVE=1 makes a
missing extension an ImportError.
"""

import os
from typing import Final

from tailbudget.analytics.recognise import PROMOTED

from ..journal.record import Signal
from .batches import Batches
from .decode import decode_logs, decode_metrics, decode_traces
from .privacy import Content

try:
    from . import native
except ImportError:
    if os.environ.get("TAILBUDGET_REQUIRE_NATIVE") == "1":
        raise
    NATIVE = False
else:
    NATIVE = os.environ.get("TAILBUDGET_DECODER", "native") != "python"

#: The name of the decoder that runs, as `/metrics` and `tailbudget doctor` tell it.
DECODER: Final = "native" if NATIVE else "python"


def decode_body(signal: Signal, body: bytes, *, content: Content) -> Batches:
    """Return the batches of a body of that signal. Raises BadBodyError.

    Every rule for content but `drop`, and tenants from users, are the reference's work.
    """
    drops = content.mode == "drop" and not content.tenant_from_user
    if NATIVE and drops and (batches := native.decode(signal, body)) is not None:
        return batches
    return reference(signal, body, content=content)


def reference(signal: Signal, body: bytes, *, content: Content) -> Batches:
    """Return what the decoder in Python makes of the body. Raises BadBodyError."""
    if signal == "traces":
        return decode_traces(body, promoted=PROMOTED, content=content)
    return (decode_metrics if signal == "metrics" else decode_logs)(body, content=content)
