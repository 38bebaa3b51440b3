"""What did queue, batch, cache and GPU do, do they fit together, and who was in a step?"""

import pyarrow as pa
import streamlit as st

from tailbudget.analytics import gpu

from .parts import charts, controls, picked, refresh, series, tables, words
from .parts.answers import answer


def page() -> None:
    """Draw the page, again every few seconds while it is live and no step is selected."""
    refresh.live(_body)


def _body() -> None:
    window, chosen = controls.window(), controls.chosen_range()
    found = answer(gpu.engine_series, window, bucket_s=chosen.bucket_s)
    if not found.num_rows:
        st.info(
            f"No engine and no GPU sent a sample in {chosen.words}: start `tailbudget runtime`, give the collector "
            "`--scrape http://your-vllm:8000/metrics`, or run `tailbudget.init()` in a process that sees the GPU."
        )
        return
    _quadrant(answer(gpu.queue_quadrant, window, bucket_s=chosen.bucket_s))
    pictures = series.measures(found)
    for pair in (pictures[place : place + 2] for place in range(0, len(pictures), 2)):  # in this order on a phone too
        for column, one in zip(st.columns(2, gap="medium"), pair, strict=False):
            with column:
                _measure(one)


def _measure(one: series.Series) -> None:
    if one.is_share:
        charts.draw("engine_shares", one.rows, one.heading, key=one.key, brush="time", on_brush=controls.drag)
    else:
        charts.draw("engine_series", one.rows, one.heading, key=one.key, brush="time", on_brush=controls.drag)


def _quadrant(quadrant: pa.Table) -> None:
    if not quadrant.num_rows:
        st.caption("No engine has samples beside a GPU's in this range: no queue to hold against utilisation.")
        return
    wrong = quadrant.num_rows - quadrant["corner"].to_pylist().count("as it should be")
    left, right = st.columns([3, 2], gap="medium")
    with left:
        title = f"**Queue against utilisation** · n {quadrant.num_rows} · {wrong} in the two named corners · click one"
        charts.draw("queue_quadrant", quadrant, title, brush="point")
    with right:
        point = series.point(quadrant, picked.bounds())
        picked.choose(series.points(quadrant), shown=point["id"])
        step = answer(gpu.step_requests, controls.bucket(point), instance=point["instance"])
        picked.ending()
        title, moment = words.step(point, step)
        charts.tools(step, title, name="step", hover=words.utc(moment))
        tables.step(tables.linked(step))
