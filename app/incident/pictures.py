"""The pictures of an incident's report: charts of the dashboard as SVG files."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from tailbudget.analytics import overview, stages, token_rate, violations
from tailbudget.analytics.reader import Reader
from tailbudget.analytics.sag import SagSettings
from tailbudget.analytics.window import Window

CHARTS: Final = Path(__file__).parents[1] / "charts"
#: Version of Vega-Lite that the dashboard's Streamlit draws with, or the next that there is.
VEGA_LITE: Final = "6.1"
WIDTH: Final = 900
#: Buckets of time in a picture, each a multiple of the token rate's 10 s.
BUCKETS: Final = 60
BUCKET_S: Final = 10
#: Series and GPUs drawn, in the order of their first row.
MOST: Final = 4
#: What Streamlit's dark theme gives the pages.
THEME: Final = {
    "background": "#0f1117",
    "padding": 14,
    "view": {"stroke": None},
    "axis": {"labelColor": "#c3c9d6", "titleColor": "#aab2c5", "gridColor": "#2c3140", "domainColor": "#2c3140"},
    "legend": {"labelColor": "#c3c9d6", "titleColor": "#aab2c5"},
    "title": {"color": "#e6e8ee", "anchor": "start", "fontSize": 13},
}
MISSING: Final = "No pictures: `pip install 'tailbudget[pictures]'` draws them."

#: Chart -> what is drawn, the question (of the whole store or the folder's rows), and of what each has a picture.
DRAWN: Final[dict[str, tuple[str, Callable[[Reader, Reader, Window, int], pa.Table], str]]] = {
    "heatmap": ("Requests by time and latency", lambda _, own, w, s: overview.latency_heatmap(own, w, bucket_s=s), ""),
    "violations_timeline": (
        "Requests over a budget, by the stage to blame",
        lambda _, own, w, s: violations.violations_timeline(own, w, bucket_s=s),
        "",
    ),
    "stage_bullets": (
        "Stages: p50 to p95, p99 and budget",
        lambda _, own, w, _bucket: stages.stage_percentiles(own, w),
        "",
    ),
    "token_rate": (
        "Token rate a stream, and what was to be expected",
        lambda store, _, w, s: token_rate.token_rate(store, w, bucket_s=s, settings=SagSettings()),
        "series",
    ),
    "gpu_clock": ("Lowest clock of a GPU", lambda _, own, w, s: token_rate.gpu_clock(own, w, bucket_s=s), "gpu"),
}


def draw(store: Reader, own: Reader, window: Window, folder: Path) -> str:
    """Write the pictures that have something to show into `folder` and return the Markdown that shows them.

    `store` knows what came before the window too; `own` has the folder's rows.
    """
    if find_spec("vl_convert") is None:
        return MISSING
    seconds = (window.to_ts - window.from_ts).total_seconds()
    bucket_s = max(round(seconds / BUCKETS / BUCKET_S), 1) * BUCKET_S
    shown = []
    for chart, (title, ask, by) in DRAWN.items():
        for number, (name, part) in enumerate(_each(ask(store, own, window, bucket_s), by)):
            file = folder / (f"{chart}-{number + 1}.svg" if by else f"{chart}.svg")
            folder.mkdir(exist_ok=True)
            file.write_text(_svg(chart, part), encoding="utf-8")
            heading = f"{title}: {name}" if name else title
            shown.append(f"{heading}\n\n![{heading}]({folder.name}/{file.name})")
    return "\n\n".join(shown) or "Nothing to draw."


def _each(rows: pa.Table, by: str) -> Iterator[tuple[str, pa.Table]]:
    if not rows.num_rows:
        return
    if not by:
        yield "", rows
        return
    for value in pc.unique(rows[by]).to_pylist()[:MOST]:
        yield str(value), rows.filter(pc.equal(rows[by], value))


def _svg(chart: str, rows: pa.Table) -> str:
    import vl_convert  # 0.3 s, and an extra

    spec: dict[str, Any] = json.loads((CHARTS / f"{chart}.vl.json").read_text(encoding="utf-8"))
    drawn = {**spec, "width": WIDTH, "data": {"values": [_plain(row) for row in rows.to_pylist()]}}
    return vl_convert.vegalite_to_svg(drawn, vl_version=VEGA_LITE, config=THEME, allowed_base_urls=[])


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for JSON; instants are numbers, with which charts reckon."""
    return {name: 1e3 * value.timestamp() if isinstance(value, datetime) else value for name, value in row.items()}
