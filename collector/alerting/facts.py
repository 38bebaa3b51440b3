"""What a message says beside the alert itself: who is hit, by what, since when, how much is left, and where to look."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

import duckdb

from tailbudget.analytics.objectives import Delivery, Objective, burn
from tailbudget.analytics.reader import ConnectionReader, QueryError

from . import book

#: The rules' windows begin before the alert does: requests are counted from so long before it.
BEFORE: Final = timedelta(hours=1)
#: A sag alert opens when it is sure: so long after the sag began.
SAG_BEFORE: Final = timedelta(minutes=5)
LABELS: Final = ("kind", "rule", "severity", "owner", "model", "provider", "instance", "scope")
DETAILS: Final = ("owner", "runbook", "degrade_first")
Row = Mapping[str, Any]


def details(alert: Row, objective: Objective | None, delivery: Delivery, found: Row) -> dict[str, str | None]:
    """Return owner, runbook and degrade_first: the objective's, else those of the stage that is worst."""
    stage = delivery.stages.get(str(found.get("worst_stage")), {})
    return {name: alert[name] or (objective and getattr(objective, name)) or stage.get(name) for name in DETAILS}


def hit(
    connection: duckdb.DuckDBPyConnection, alert: Row, objective: Objective | None, *, now: datetime
) -> dict[str, Any]:
    """Return who is hit: requests, tenants, conversations, worst_stage, worst_tenant, traces (request ids), since, sql.

    {} when unknown; of a diagnosis sql and evidence.
    """
    if alert["kind"] == "diagnosis":
        return {"sql": f"from diag_{alert['rule']}", "evidence": book.loaded(alert["evidence"])}
    words = _conditions(alert, objective)
    if words is None:
        return {}
    where, bad, since = words
    params = {"since": alert["opened"] - BEFORE, "until": now}
    hits = f"started >= '{_utc(since)}' and ({bad})"
    try:
        query = book.statement("hit_requests").format(where=where, bad=hits)
        (row,) = ConnectionReader(connection).query(query, params).to_pylist()
    except QueryError:  # a condition that no row answers has an alert of its own
        return {}
    return {
        **row,
        "since": f"{since:%H:%M}Z",
        "sql": f"from requests where ({where}) and {hits} order by total_ms desc",
    }


def budget(connection: duckdb.DuckDBPyConnection, alert: Row, objective: Objective | None) -> dict[str, Any]:
    """Return what is promised and how much of its budget is left, in words."""
    if objective is None:
        return {}
    part = _part(alert, objective)
    query = "from slo_status where objective = $objective and part = $part"
    params = {"objective": objective.name, "part": part}
    rows = ConnectionReader(connection).query(query, params).to_pylist()
    facts: dict[str, Any] = {"goal": str(objective), "period": str(objective.period)}
    if rows and rows[0]["budget_left"] is not None:
        left, hours = rows[0]["budget_left"], rows[0]["hours_left"]
        said = f"{left * 100:.0f} % left" if left > 0 else "overspent"
        said += f", spent in {hours:.1f} h at this rate" if hours else ""
        facts |= {
            "budget": "; ".join((said, *burn.unsure(rows[0]))),
            "budget_left": left,
            "coverage": rows[0]["coverage"],
        }
        facts["hours_left"] = hours
    return facts


def labels(alert: Row) -> dict[str, str]:
    """Return what silences and maintenance may name of an alert."""
    named = {name: str(alert[name]) for name in LABELS if alert.get(name)}
    return named | {name: str(value) for name, value in book.loaded(alert["labels"]).items()}


def trace_url(dashboard: str, request_id: str) -> str:
    """Return the address of a request's page."""
    return f"{dashboard}/trace?request={quote(request_id, safe='')}"


def _conditions(alert: Row, objective: Objective | None) -> tuple[str, str, datetime] | None:
    """Return conditions over requests, which of them are hit, and since when; None where nobody can tell."""
    if objective is not None and alert["kind"] == "burn":
        words = burn.conditions(objective)
        part = _part(alert, objective)
        parts = [f"{words['part']} = {_quoted(part)}"] if part else []
        where = [*parts, *(f"({words[name]})" for name in ("where", "counts") if words[name] != "true")]
        return " and ".join(where) or "true", words["bad"], alert["opened"] - BEFORE
    if alert["kind"] == "sag" and alert["model"]:  # every request of the model waits for its tokens
        return f"model = {_quoted(alert['model'])}", "true", alert["opened"] - SAG_BEFORE
    return None


def _part(alert: Row, objective: Objective) -> str:
    return str(book.loaded(alert["labels"]).get(objective.per, "")) if objective.per else ""


def _quoted(text: object) -> str:
    return "'" + str(text).replace("'", "''") + "'"


def _utc(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"
