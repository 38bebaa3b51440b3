"""What did queue, batch, cache and GPU do, and do they fit together?"""

import pyarrow as pa
import streamlit as st

from tailbudget.analytics import gpu

from .parts import charts, controls, refresh, series, words
from .parts.answers import answer

#: Measures in the order of the page, and what they are called.
MEASURES = {
    "running": "requests in the batch, mean",
    "waiting": "requests waiting, mean",
    "kv_used": "KV cache in use, most (1 = full)",
    "prefix_hits": "prompt tokens found in the prefix cache, share",
    "preemptions": "preemptions in each bucket",
    "tokens_per_s": "tokens generated a second",
    "util": "GPU utilisation (1 = always busy)",
    "power_w": "GPU power, W",
}


def page() -> None:
    """Draw the page, again every few seconds while it is live."""
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
    drawn = sorted(series.split_by(found, "measure"), key=lambda rows: list(MEASURES).index(rows["measure"][0].as_py()))
    pictures = [(rows["measure"][0].as_py(), one) for rows in drawn for one in series.split_by(rows, "source")]
    columns = st.columns(2, gap="medium")
    for place, (measure, one) in enumerate(pictures):
        with columns[place % 2]:
            source = str(one["source"][0])
            n = sum(one["n"].to_pylist())
            title = f"**{MEASURES[measure]}** · {words.plain(source)} · n {n:,} samples"
            drag = controls.drag(f"engine_series{measure}{source}")
            charts.draw("engine_series", one, title, key=f"{measure}{source}", brush="time", on_brush=drag)


def _quadrant(quadrant: pa.Table) -> None:
    if not quadrant.num_rows:
        st.caption("No engine has samples beside a GPU's in this range: no queue to hold against utilisation.")
        return
    wrong = quadrant.num_rows - quadrant["corner"].to_pylist().count("as it should be")
    title = f"Queue against utilisation, a point a bucket (n {quadrant.num_rows}) · {wrong} in the two named corners"
    charts.draw("queue_quadrant", quadrant, title)
