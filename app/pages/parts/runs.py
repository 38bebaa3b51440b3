"""The picker of a load run, and what its steps say in words."""

import pyarrow as pa
import streamlit as st

from .words import count, duration, plain


def pick(known: pa.Table) -> str:
    """Draw the picker of a run and return its id: that in the address, else the newest."""
    options = [str(run_id) for run_id in known["run_id"].to_pylist()]
    named = st.session_state.get("run") or st.query_params.get("run")
    if named and named not in options:
        options.append(str(named))  # a link to a run outside of the range
    return str(st.selectbox("Run", options, key="run", bind="query-params") or options[0])


def verdict(steps: pa.Table) -> str:
    """Return what a run's steps say: its knee, what broke beyond it, and whether the client kept its plan."""
    rows = steps.to_pylist()
    if not rows:
        return "This run has no step yet."
    unit, knee = rows[0]["unit"], rows[0]["knee"]
    broke = next((row for row in rows if row["holds"] is False), None)
    if all(row["holds"] is None for row in rows):
        said = "No objective was set: name a file of them with `--slo`."
    elif knee is None:
        said = f"**No load that was tried holds**: {rows[0]['offered']:g} {unit} is the lowest."
    else:
        said = f"**It carries {knee:g} {unit}**" + (": every load that was tried holds." if broke is None else ".")
    if broke:
        stage = plain(broke["broke_stage"]) if broke["broke_stage"] else "a stage that nobody told"
        said += f" At {broke['offered']:g} {stage} breaks first, p95 {duration(broke['p95_ms'] or 0)}."
    late = sum((row["late_p99_ms"] or 0) > 5 for row in rows)
    return said + (f" The client was late itself in {count(late, 'step')}." if late else "")
