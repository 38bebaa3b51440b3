"""The dashboard over 1 M requests behind the read API: CPU of a rerun of each page, and time until its pictures stand.

`python benchmarks/dashboard.py [REQUESTS]` makes a day of requests and starts a collector and a dashboard on them. CPU
is that of this process, which runs the pages as Streamlit does; cold is the first look at a range, warm one within the
5 s in which viewers share answers. Goals: 400 ms and 60 ms. The limit of the load times is a page with one small
question and no picture.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from ingest import Collector
from machine import describe
from playwright.sync_api import Page, sync_playwright
from streamlit.testing.v1 import AppTest
from tests.support import free_port

from tailbudget.collector.land.database import open_database

REQUESTS: Final = 1_000_000
HERE: Final = Path(__file__).parent
ROUNDS: Final = 5
#: Module, address, pictures of the page on this data.
PAGES: Final = (
    ("overview", "", 3),
    ("latency", "latency", 3),
    ("stages", "stages", 4),
    ("violations", "violations", 1),
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
    import streamlit as st

    app = AppTest.from_function(script, args=(name,), default_timeout=60)
    app.query_params["live"] = "false"
    app.run()  # imports
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(ROUNDS):
        st.cache_data.clear()
        for found in (cold, warm):
            began = time.process_time()
            app.run()
            found.append((time.process_time() - began) * 1e3)
    drawn = len(app.get("vega_lite_chart"))
    if app.exception or app.error or drawn < pictures:
        raise SystemExit(f"{name}: {drawn} pictures, {[*app.exception, *app.error]}")
    return statistics.median(cold), statistics.median(warm)


@contextmanager
def dashboard(api: str) -> Iterator[str]:
    """Give the address of a running dashboard."""
    port = free_port()
    command = [sys.executable, "-m", "tailbudget.app.main", "app", "--api", api, "--port", str(port)]
    process = subprocess.Popen(command)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urlopen(f"{address}/_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def load_s(page: Page, url: str, pictures: int) -> float:
    """Return the median seconds from asking for a page until its pictures stand."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        page.goto(url)
        page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
        if pictures:
            drawn = "document.querySelectorAll('[data-testid=\"stVegaLiteChart\"] svg').length >= %d"
            page.wait_for_function(drawn % pictures)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def main() -> None:
    """Run all of it."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        fill(data, requests=requests)
        collector = Collector(data)
        collector.start()
        os.environ["TAILBUDGET_API"] = api = f"http://127.0.0.1:{collector.api_port}"
        try:
            print("page          cold CPU ms   warm CPU ms   (goals 400, 60; last 15 minutes)")
            for name, _, pictures in PAGES:
                cold, warm = cpu_ms(name, pictures)
                print(f"{name:12} {cold:12.0f} {warm:13.0f}")
            if CHROMIUM.exists():
                loads(api)
        finally:
            collector.end()


def loads(api: str) -> None:
    """Print how long each page takes in a browser."""
    with dashboard(api) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        print(f"{'sql':18} {load_s(page, f'{address}/sql?live=false', 0):6.2f} s, no picture: the limit")
        for name, path, pictures in PAGES:
            print(f"{name:18} {load_s(page, f'{address}/{path}?live=false', pictures):6.2f} s until its pictures stand")
        browser.close()


if __name__ == "__main__":
    main()
