"""`tailbudget doctor`: whether the collector answers and keeps up, what each service sends, and what is missing."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa

from tailbudget.analytics.coverage import arrivals, coverage, unstored
from tailbudget.analytics.overview import assembly_lag
from tailbudget.analytics.reader import ApiReader, QueryError, credentials, reason
from tailbudget.analytics.window import Window
from tailbudget.instrument.errors import UserError

from .text import ago, to_text

Row = dict[str, Any]

TIMEOUT_S: Final = 10.0
#: Spans land within a second or two: a sender further ahead has another clock.
AHEAD_S: Final = 1.0
#: Why something was not stored, in words.
REASONS: Final = {
    "bad_id": "spans whose trace or span id is absent, all zero or of a wrong length",
    "bad_buckets": "histograms with another number of buckets than one more than their bounds",
    "bad_link": "links that point to no valid span",
    "content_dropped": "attributes with prompts, answers or tool arguments, which are not kept",
    "content_hashed": "attributes with prompts, answers or tool arguments, kept as hashes",
    "content_truncated": "attributes with prompts, answers or tool arguments, cut short and redacted",
    "content_kept": "attributes with prompts, answers or tool arguments, kept redacted",
    "damaged": "stretches of the journal that were acknowledged and cannot be read; a copy is beside it",
    "duplicate": "spans that had been stored before",
    "repeated_body": "bodies that had been accepted before",
    "unreadable": "bodies that could not be read back from the journal",
    "unlandable": "bodies that do not fit the tables",
    "unread": "messages over the size limit, or whose sender left amid them",
    "scrape_not_taken": "scrapes of an engine that could not be journaled",
    "http_400": "bodies that are no OTLP",
    "http_401": "bodies without the collector's token",
    "http_404": "requests of an unknown path or method: OTLP/HTTP wants /v1/traces, /v1/metrics or /v1/logs",
    "http_405": "requests of another method than POST",
    "http_408": "bodies that took too long to arrive",
    "http_413": "bodies over the size limit",
    "http_415": "bodies of an unknown content type or encoding",
    "http_503": "bodies refused while memory, journal or disk was full: senders were asked to retry",
}
#: Metric -> what it is called here; /metrics has them without labels.
GAUGES: Final = {
    "tailbudget_landing_lag_seconds": "landing_lag_s",
    "tailbudget_queue_bodies": "queue_bodies",
    "tailbudget_journal_bytes": "journal_bytes",
}
SHARES: Final = ("ttft_share", "tokens_share", "server_share", "budget_share", "assembled_share")


def examine(api: str, *, span: timedelta) -> Row:
    """Return what the collector at `api` says of itself, and of the services in `span` before the newest span.

    Keys: api, decoder, landing_lag_s, assembly_lag_s, queue_bodies, journal_bytes, failures (by work), engines (whether
    each answered its last scrape), services (rows of the view `coverage`), arrivals (how late each is), unstored (rows
    of what was received and not stored). Raises UserError when nothing answers there or OTLP is not accepted yet,
    QueryError when it answers but refuses.
    """
    api = api.rstrip("/")
    _check_ready(api)
    metrics = _metrics(api)
    reader = ApiReader(api)
    now = datetime.now(UTC)
    window = Window(now - span, now + timedelta(minutes=1))
    gauges = {name: next(iter(_samples(metrics, metric).values()), None) for metric, name in GAUGES.items()}
    return {
        "api": api,
        "decoder": next(iter(_samples(metrics, "tailbudget_decoder")), None),
        **gauges,
        "assembly_lag_s": assembly_lag(reader, now=now)["lag_s"][0].as_py() or 0.0,
        "failures": {work: int(n) for work, n in _samples(metrics, "tailbudget_failures_total").items()},
        "engines": {name: bool(up) for name, up in _samples(metrics, "tailbudget_scrape_up").items()},
        "services": coverage(reader, span=span).to_pylist(),
        "arrivals": arrivals(reader, window).to_pylist(),
        "unstored": unstored(reader, window).to_pylist(),
    }


def to_json(found: Row) -> str:
    """Return one JSON object, instants as ISO 8601 in UTC with Z."""
    return json.dumps(found, default=_instant, indent=2) + "\n"


def report(found: Row, *, now: datetime) -> str:
    """Return what people read: the collector in a line, a table of services, what is missing, what was not stored."""
    return "\n".join(_lines(found, now))


def _lines(found: Row, now: datetime) -> Iterator[str]:
    yield (
        f"collector  {found['api']} answers; decoder {found['decoder'] or 'unknown'}; "
        f"landing {found['landing_lag_s'] or 0:.1f} s behind, assembly {found['assembly_lag_s']:.1f} s; "
        f"{found['queue_bodies'] or 0:.0f} bodies wait, {found['journal_bytes'] or 0:,.0f} bytes of journal"
    )
    for work, n in found["failures"].items():
        yield f"failed     {work}: {n} times, the collector's log says why"
    for name, up in found["engines"].items():
        if not up:
            yield f"engine     {name} did not answer its last scrape: see that it runs and that --scrape names it"
    shown = list(_shown(found["services"], found["arrivals"], now))
    if not shown:
        yield "services   none sent anything; point one at the collector: OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
    else:
        yield ""
        yield to_text(pa.Table.from_pylist(shown)).rstrip()
        yield from _ahead(found["arrivals"])
    yield from _sampled(found["services"])
    yield from _missing(found["services"])
    yield from _unstored(found["unstored"])
    yield ""


def _ahead(arrivals: Sequence[Row]) -> Iterator[str]:
    for row in arrivals:
        if row["lag_s"] is not None and row["lag_s"] < -AHEAD_S:
            yield (
                f"clock      {row['service'] or '(no name)'} is {-row['lag_s']:.1f} s ahead of the collector: "
                "let NTP set both"
            )


def _sampled(services: Sequence[Row]) -> Iterator[str]:
    for row in services:
        if row["stands_for"] > row["requests"]:
            yield (
                f"sampled    {row['service'] or '(no name)'}: {row['requests']:,} requests stand for about "
                f"{row['stands_for']:,}: objectives weigh them so, percentiles and counts elsewhere are of what came"
            )


def _shown(services: Sequence[Row], arrivals: Sequence[Row], now: datetime) -> Iterator[Row]:
    """Yield a line a sender: those of spans, then those of nothing but metrics and logs."""
    covered = {row["service"]: row for row in services}
    arrived = {row["service"]: row for row in arrivals}
    for service in covered | arrived:
        row, sent = covered.get(service, {}), arrived.get(service, {})
        newest, lag_s = row.get("last_span") or sent.get("last_minute"), sent.get("lag_s")
        yield {
            "service": service or "(no name)",
            "sends": ", ".join(row.get("dialects", ())) or ("unknown" if row else "no spans"),
            "newest": "never" if newest is None else ago(now - newest),
            "late": None if lag_s is None else f"{lag_s:.1f} s",
            **{unit: row.get(unit) or sent.get(unit, 0) for unit in ("spans", "points", "records")},
            **{unit: row.get(unit, 0) for unit in ("requests", "calls")},
            **{name.removesuffix("_share"): _percent(row.get(name)) for name in SHARES},
        }


def _missing(services: Sequence[Row]) -> Iterator[str]:
    holes = [(row["service"] or "(no name)", hole) for row in services for hole in row["missing"]]
    if holes:
        yield "\nmissing, and the line that adds it"
    for service, hole in holes:
        yield f"  {service}: {hole['what']}\n      {hole['add']}"


def _unstored(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield "\nnot stored as it came"
    for row in rows:
        meaning = REASONS.get(row["reason"], "")
        yield f"  {row['n']:,} of {row['service'] or '(no name)'} ({row['signal']}, {row['reason']}): {meaning}".rstrip(
            ": "
        )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.1f} %"


def _check_ready(api: str) -> None:
    try:
        _get(f"{api}/readyz")
    except urllib.error.HTTPError as error:
        raise UserError(
            f"{api}/readyz answered {error.code}, 200 was expected: the collector is starting or stopping, "
            "or something else listens there"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"no collector answers at {api} ({error}): start `tailbudget collector`, or name its --api"
        ) from error


def _metrics(api: str) -> str:
    try:
        return _get(f"{api}/metrics")
    except urllib.error.HTTPError as error:
        raise QueryError(*reason(error)) from error


def _get(url: str) -> str:
    request = urllib.request.Request(url, headers=credentials())  # noqa: S310 - the collector's own API
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return str(answer.read().decode())


def _samples(metrics: str, name: str) -> dict[str, float]:
    """Return the samples of one metric in Prometheus' text format, by their only label ('' without one)."""
    found = re.findall(rf'^{name}(?:{{\w+="([^"]*)"}})? ([0-9.e+-]+)$', metrics, re.MULTILINE)
    return {label: float(value) for label, value in found}


def _instant(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    raise TypeError(f"no JSON form for {value!r}")
