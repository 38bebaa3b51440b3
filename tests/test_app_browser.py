"""In Chromium each page draws its pictures, without a console error and without a request off loopback."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

from .local_api import local_api
from .seed import Seeded, empty, seed
from .seed_more import furnish
from .seed_streams import stream
from .support import free_port, wait_until

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --headless --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}
DONE = '[data-testid="stApp"][data-test-script-state="notRunning"]'
PICTURE = '[data-testid="stVegaLiteChart"] svg'
#: What a picture draws: shapes and texts that are neither its axes nor its legend.
MARKS = "g.role-mark path, g.role-mark line, g.role-mark text, g.role-mark rect"
#: Streamlit finds where it is mounted by asking below the page's own path first.
PROBE = re.compile(r"/_stcore/(health|host-config)$")


@contextmanager
def _dashboard(api: str) -> Iterator[str]:
    port = free_port()
    code = f"from tailbudget.app.dashboard import serve; serve(api={api!r}, host='127.0.0.1', port={port})"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TAILBUDGET_SAG": "1,240,30,30,15"})
    try:
        wait_until(lambda: _answers(f"http://127.0.0.1:{port}/_stcore/health"), what="the dashboard")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[duckdb.DuckDBPyConnection, Seeded]]:
    connection = empty(Path(tmp_path_factory.mktemp("data")))
    rows = seed(connection, ended=datetime.now(UTC) - timedelta(seconds=5), minutes=13)
    furnish(connection, rows)
    stream(connection, rows)
    yield connection, rows
    connection.close()


@pytest.fixture(scope="module")
def address(database: tuple[duckdb.DuckDBPyConnection, Seeded]) -> Iterator[str]:
    with local_api(database[0]) as api, _dashboard(api) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        needed = f"needs Chromium at {str(CHROMIUM)!r}: apt-get install --no-install-recommends chromium"
        if os.environ.get("TAILBUDGET_REQUIRE_BROWSER") == "1":
            pytest.fail(needed)
        pytest.skip(needed)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split())
        yield browser
        browser.close()


class Visit:
    """One open page, with what it complained about and whom it asked."""

    def __init__(self, browser: Browser, size: str = "desktop") -> None:
        width, height = SIZES[size]
        self.page: Page = browser.new_page(viewport={"width": width, "height": height})
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._request(request.url))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not PROBE.search(message.location["url"]):
            self.errors.append(message.text)

    def _request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            self.elsewhere.append(url)

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.done()

    def done(self) -> None:
        self.page.wait_for_selector(DONE, timeout=60_000)

    def pictures(self, n: int) -> Locator:
        """Wait until `n` pictures have drawn marks, and return them."""
        pictures = self.page.locator(PICTURE)
        drawn = pictures.filter(has=self.page.locator(MARKS))
        wait_until(lambda: drawn.count() >= n, what=f"{n} pictures")
        return pictures


#: Each page's address, and its pictures.
PATHS = {
    "": 3, "latency": 4, "stages": 3, "violations": 1, "token-rate": 5, "gpu": 11, "trace": 1, "coverage": 1,
    "map": 1, "compare": 1, "sql": 0, "diagnoses": 1, "capacity": 1,
}  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("path", "n"), list(PATHS.items()))
def test_a_page_draws_its_pictures_and_asks_nobody_else(
    browser: Browser, address: str, path: str, n: int, size: str
) -> None:
    visit = Visit(browser, size)
    visit.open(f"{address}/{path}?live=false")
    pictures = visit.pictures(n)
    assert pictures.count() == n
    for place in range(n):
        box = pictures.nth(place).bounding_box()
        assert box is not None
        assert box["height"] > 50
        assert box["x"] + box["width"] <= SIZES[size][0], "wider than the screen"
    assert visit.page.locator('[data-testid="stException"]').count() == 0
    assert (visit.errors, visit.elsewhere) == ([], [])
    visit.page.close()


def test_the_heatmap_has_a_cell_for_each_row_and_its_budget_line(browser: Browser, address: str) -> None:
    visit = Visit(browser)
    visit.open(f"{address}/?live=false")
    heatmap = visit.pictures(3).nth(0)
    assert heatmap.locator("g.mark-rect path").count() > 60
    assert heatmap.get_by_text("budget 4 s").count() == 1
    visit.page.close()


def test_all_nine_stages_are_drawn_with_their_n(browser: Browser, address: str) -> None:
    visit = Visit(browser)
    visit.open(f"{address}/?live=false")
    bullets = visit.pictures(3).nth(1)
    stages = bullets.locator("g.role-axis-label text").all_text_contents()
    assert [text for text in stages if text.isalpha()] == [
        "network", "queue", "retrieval", "prompt", "prefill", "decode", "tools", "post", "other",
    ]  # fmt: skip
    assert len(re.findall(r"\bn \d", " ".join(bullets.locator("g.mark-text text").all_text_contents()))) == 9
    visit.page.close()


def test_range_and_route_stay_while_one_goes_from_page_to_page(browser: Browser, address: str) -> None:
    visit = Visit(browser)
    visit.open(f"{address}/?range=1h&route=%2Fchat&live=false")
    visit.pictures(3)
    visit.page.get_by_role("link", name="Violations").click()
    visit.page.wait_for_function("location.pathname == '/violations' && location.search.includes('range=1h')")
    visit.pictures(1)
    assert "route=%2Fchat" in visit.page.url
    assert visit.errors == []
    visit.page.close()


def test_a_link_opens_the_trace_of_that_request_and_keeps_naming_it(
    browser: Browser, address: str, database: tuple[duckdb.DuckDBPyConnection, Seeded]
) -> None:
    over = next(row for row in database[1].rows["violations"] if row["over_stage"] == "retrieval")
    visit = Visit(browser)
    visit.open(f"{address}/trace?request={over['request_id']}")
    visit.pictures(1)
    assert visit.page.locator(".cards").get_by_text("retrieval", exact=True).count() == 1
    assert f"request={over['request_id']}" in visit.page.url
    visit.page.close()


def test_a_live_page_shows_a_new_request_by_itself_and_a_paused_one_does_not(
    browser: Browser, address: str, database: tuple[duckdb.DuckDBPyConnection, Seeded]
) -> None:
    live, paused = Visit(browser), Visit(browser)
    live.open(f"{address}/?range=1h")
    paused.open(f"{address}/?range=1h&live=false")
    label = live.page.get_by_text("p50 total · n")
    stays = paused.page.get_by_text("p50 total · n")
    before = label.inner_text()
    assert stays.inner_text() == before
    database[0].cursor().execute(
        "insert into requests by name select * replace (request_id || '-again' as request_id, now() as started) "
        "from requests where not synthetic limit 25"
    )
    wait_until(lambda: label.inner_text() != before, what="the new requests")
    assert stays.inner_text() == before
    assert live.errors == []
    live.page.close()
    paused.page.close()


def _drag(visit: Visit, picture: Locator, begin: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over a picture, from and to shares of its width and height."""
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    assert box is not None
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in (begin, end)]
    visit.page.mouse.move(*points[0])
    visit.page.mouse.down()
    visit.page.mouse.move(*points[1], steps=8)
    visit.page.mouse.up()


def test_dragging_over_time_sets_the_range_of_all_pages(browser: Browser, address: str) -> None:
    visit = Visit(browser)
    visit.open(f"{address}/?live=false")
    _drag(visit, visit.pictures(3).nth(0), (0.4, 0.5), (0.6, 0.6))
    visit.page.wait_for_function("location.search.includes('between=')")
    visit.done()
    assert visit.page.get_by_label("From/to (UTC)", exact=True).input_value().count("T") == 2
    visit.page.get_by_role("link", name="Stages").click()
    visit.page.wait_for_function("location.pathname == '/stages' && location.search.includes('between=')")
    visit.pictures(3)
    assert visit.errors == []
    visit.page.close()


def test_a_box_over_cells_lists_their_requests_and_pauses_the_live_page(browser: Browser, address: str) -> None:
    visit = Visit(browser)
    visit.open(f"{address}/latency")
    before = visit.page.get_by_text("Who took").inner_text()
    assert "over 4 s" in before
    _drag(visit, visit.pictures(4).nth(0), (0.3, 0.45), (0.6, 0.6))
    wait_until(lambda: visit.page.get_by_text("Who took").inner_text() != before, what="the requests of the box")
    visit.done()
    chosen = visit.page.get_by_text("Who took").inner_text()
    visit.page.wait_for_timeout(6_000)  # longer than the rhythm of a live page
    assert visit.page.get_by_text("Who took").inner_text() == chosen
    assert visit.errors == []
    visit.page.close()


def test_clock_and_power_stand_below_the_rate_on_its_time_axis_with_the_sag_shaded(
    browser: Browser, address: str
) -> None:
    visit = Visit(browser)
    visit.open(f"{address}/token-rate?live=false&range=15m")
    pictures = visit.pictures(5)
    below = [pictures.nth(place) for place in range(4)]  # two series, then the GPU's clock and its power
    ticks = [[_left(tick) for tick in one.locator("g.role-axis-label text").all()[:8]] for one in below]
    assert all(abs(a - b) < 2 for one in ticks[1:] for a, b in zip(one, ticks[0], strict=True))
    assert [one.get_by_text("▼ sag, 2.4 times slower").count() for one in below] == [1, 1, 0, 0]
    assert below[2].get_by_text("▼ heat (software)").count() == 1
    assert all(one.locator("g.layer_1_marks path").count() for one in below), "the sag is shaded on each"
    visit.page.close()


def _left(tick: Locator) -> float:
    box = tick.bounding_box()
    assert box is not None
    return box["x"]


def test_the_wrong_corners_are_named_on_the_picture(browser: Browser, address: str) -> None:
    visit = Visit(browser)
    visit.open(f"{address}/gpu?live=false")
    quadrant = visit.pictures(11).nth(0)
    for words in ("idle GPU, deep queue:", "a scheduling fault", "busy GPU, empty queue:", "batching misconfigured?"):
        assert quadrant.get_by_text(words).count() == 1
    assert quadrant.locator("g.mark-rect path").count() == 2
    visit.page.close()


def test_a_click_on_a_point_shows_who_was_in_that_step(browser: Browser, address: str) -> None:
    visit = Visit(browser)
    visit.open(f"{address}/gpu?live=false")
    points = visit.pictures(11).nth(0).locator("g.mark-symbol.role-mark path")
    before = visit.page.get_by_text("In the step of").inner_text()
    box = points.first.bounding_box()  # others may lie over it: any of them is a step of its own
    assert box is not None
    visit.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    wait_until(lambda: visit.page.get_by_text("In the step of").inner_text() != before, what="the step of the point")
    assert visit.errors == []
    visit.page.close()


def test_a_picture_gives_its_sql_and_its_rows(browser: Browser, address: str) -> None:
    visit = Visit(browser)
    visit.open(f"{address}/?live=false")
    visit.pictures(3)
    visit.page.get_by_role("button", name="SQL · CSV").first.click()
    visit.page.get_by_text("quantile_cont").or_(visit.page.get_by_text("time_bucket")).first.wait_for()
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Download the rows").click()
    assert download.value.path().read_text().startswith('"t","t2","lo_ms"')
    visit.page.close()
