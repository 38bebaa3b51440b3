"""The dashboard over 1 M requests behind the read API: CPU of a rerun, time until pictures stand, and viewers.

`python benchmarks/dashboard.py [REQUESTS]` makes a day of requests and starts a collector and a dashboard on them. CPU
is that of this process, which runs the pages as Streamlit does; cold is the first look at a range, warm one within the
5 s in which viewers share answers. Goals: 400 ms and 60 ms. The limit of the load times is a Streamlit page with one
word; the goal is a first picture within 2 s more. Then it sends at half of what the collector lands for 20 s alone and
as long with ten viewers of live pages, eight times: goals are at most 20 % more until a body is acknowledged and until
its spans are visible to questions, and no page over 3 s. `python benchmarks/dashboard.py viewers [PAIRS [SECONDS]]`
does that alone, in 6 minutes.
"""

import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from ingest import Collector
from machine import describe
from playwright.sync_api import Page, sync_playwright
from streamlit.testing.v1 import AppTest
from tests.support import free_port
from viewers import beside, dashboard, served

from tailbudget.collector.land.database import open_database

REQUESTS: Final = 1_000_000
#: Where viewers are all that is looked at.
WATCHED: Final = 100_000
HERE: Final = Path(__file__).parent
ROUNDS: Final = 5
#: Of each stretch of time, with viewers or without, and how many pairs of them.
SECONDS: Final = 20.0
PAIRS: Final = 8
#: Module, address, pictures of the page on this data; Stages has one more while a stage is over its budget around p95.
PAGES: Final = (
    ("overview", "", 3),
    ("latency", "latency", 3),
    ("stages", "stages", 3),
    ("violations", "violations", 1),
    ("token_rate", "token-rate", 10),
    ("gpu", "gpu", 33),
    ("diagnoses", "diagnoses", 0),
)
CHROMIUM: Final = Path("/usr/bin/chromium")
FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


def fill(data: Path, *, requests: int) -> None:
    """Make the data folder."""
    began = time.perf_counter()
    with open_database(data, memory_limit="1GB") as connection:
        for statement in (HERE / "fill_dashboard.sql").read_text().split(";\n"):
            values = {"until": datetime.now(UTC) + timedelta(minutes=5), "n": requests}
            connection.execute(statement, {name: one for name, one in values.items() if f"${name}" in statement})
    print(f"{requests:,} requests, {4 * requests:,} stages, made in {time.perf_counter() - began:.0f} s")


def script(name: str) -> None:
    """Run a page with the controls above it, as the site does."""
    import importlib

    from tailbudget.app.pages.parts import controls

    controls.show(name)
    importlib.import_module(f"tailbudget.app.pages.{name}").page()


def cpu_ms(name: str, pictures: int) -> tuple[float, float]:
    """Return the medians of a cold and a warm rerun."""
    from tailbudget.app.pages.parts import answers

    app = AppTest.from_function(script, args=(name,), default_timeout=60)
    app.query_params["live"] = "false"
    app.run()  # imports
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(ROUNDS):
        answers.forget()
        for found in (cold, warm):
            began = time.process_time()
            app.run()
            found.append((time.process_time() - began) * 1e3)
    drawn = len(app.get("vega_lite_chart"))
    if app.exception or app.error or drawn < pictures:
        raise SystemExit(f"{name}: {drawn} pictures, {[*app.exception, *app.error]}")
    return statistics.median(cold), statistics.median(warm)


def load_s(page: Page, url: str, pictures: int) -> float:
    """Return the median seconds from asking for a page until its pictures stand; of one, until it does."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        page.goto(url, wait_until="commit")
        if pictures != 1:
            page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
        if pictures:
            drawn = "document.querySelectorAll('[data-testid=\"stVegaLiteChart\"] svg').length >= %d"
            page.wait_for_function(drawn % pictures)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def main() -> None:
    """Run all of it, or the viewers alone."""
    alone = sys.argv[1:2] == ["viewers"]
    requests = WATCHED if alone else int(sys.argv[1]) if sys.argv[1:] else REQUESTS
    pairs = int(sys.argv[2]) if alone and sys.argv[2:] else PAIRS
    seconds = float(sys.argv[3]) if alone and sys.argv[3:] else SECONDS
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        fill(data, requests=requests)
        collector = Collector(data)
        collector.start()
        os.environ["TAILBUDGET_API"] = api = f"http://127.0.0.1:{collector.api_port}"
        try:
            if not alone:
                print("page          cold CPU ms   warm CPU ms   (goals 400, 60; last 15 minutes)")
                for name, _, pictures in PAGES:
                    cold, warm = cpu_ms(name, pictures)
                    print(f"{name:12} {cold:12.0f} {warm:13.0f}")
                loads(api, Path(folder))
            beside(collector, api, seconds=seconds, rounds=pairs)
        finally:
            collector.end()


def loads(api: str, folder: Path) -> None:
    """Print how long each page takes in a browser, beside an empty one; nothing without Chromium."""
    if not CHROMIUM.exists():
        return
    (folder / "empty.py").write_text("import streamlit as st\n\nst.write('nothing')\n")
    port = free_port()
    empty = [sys.executable, "-m", "streamlit", "run", str(folder / "empty.py"), "--server.port", str(port)]
    empty += ["--server.headless", "true", "--browser.gatherUsageStats", "false", "--server.address", "127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        with served(empty, port) as (address, _):
            limit_s = load_s(page, address, 0)
        print(f"{'an empty page':18} {limit_s:6.2f} s: the limit")
        with dashboard(api) as (address, _):
            first_s = load_s(page, f"{address}/?live=false", 1)
            print(f"{'first picture':18} {first_s:6.2f} s, {first_s - limit_s:.2f} over an empty page (goal 2)")
            for name, path, pictures in PAGES:
                url = f"{address}/{path}?live=false"
                print(f"{name:18} {load_s(page, url, pictures):6.2f} s until its pictures stand")
        browser.close()


if __name__ == "__main__":
    main()
