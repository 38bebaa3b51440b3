"""How much does it carry, and what breaks first?"""

import streamlit as st

from tailbudget.analytics import load_runs

from .parts import charts, controls, refresh, runs, tables, words
from .parts.answers import answer


def page() -> None:
    """Draw the page, again every few seconds while it is live: a run that goes on adds steps."""
    refresh.live(_body)


def _body() -> None:
    known = answer(load_runs.load_runs, controls.window())
    if not known.num_rows:
        st.info(
            f"No load run ended in {controls.chosen_range().words}: send one with `tailbudget load URL --rate 1 "
            "--sweep --slo slo.yaml`, or choose a longer range above."
        )
        return
    run_id = runs.pick(known)
    steps = answer(load_runs.load_steps, run_id=run_id)
    st.markdown(runs.verdict(steps))
    n = words.count(sum(steps["n"].to_pylist()), "request")
    left, right = st.columns(2, gap="medium")
    with left:
        title = f"Latency against offered load: p50, p95, p99 from the planned sending · n {n} · dashed: the knee"
        charts.draw("load_latency", steps, title)
    with right:
        title = "Answers a second (line), and those within every objective (bars), against offered load"
        charts.draw("load_goodput", steps, title)
    stages = answer(load_runs.load_stages, run_id=run_id)
    if stages.num_rows:
        charts.draw("load_stages", stages, "Share of each stage in the mean request, at each load")
    else:
        st.caption("No service told its stages: the requests of this run are known from the client's side alone.")
    charts.tools(steps, f"Steps of {words.plain(run_id)}", name="steps")
    tables.named(steps.drop_columns(["knee", "state"]))
