"""What of each service can be measured, and what was received but not stored."""

from datetime import timedelta

import pyarrow as pa

from .questions import ask
from .reader import Reader
from .window import Window


def coverage(reader: Reader, *, span: timedelta = timedelta(days=1)) -> pa.Table:
    """Return one row a service that sent something in `span` before the newest span.

    The columns are those of the view `coverage`, where the database says what each means; `missing` holds what is
    missing and the one line that adds it.
    """
    return ask(reader, "coverage", {"span": f"{span.total_seconds():.0f} seconds"})


def arrivals(reader: Reader, window: Window) -> pa.Table:
    """Return one row a service: service, spans, points, records, lag_s, longest_lag_s, last_minute.

    `lag_s` is the mean, over spans, from their end until they landed, of a service without spans over points and
    records, from their time; negative when the sender's clock is ahead, null where none has a time.
    """
    return ask(reader, "arrivals", window.span())


def unstored(reader: Reader, window: Window) -> pa.Table:
    """Return one row a sender, signal and reason, the most first: service, signal, reason, n, last_minute."""
    return ask(reader, "unstored", window.span())


def columns(reader: Reader) -> pa.Table:
    """Return one row a column that can be asked: table_name, column_name, data_type, comment."""
    return ask(reader, "schema")
