"""In Chromium each page draws its pictures, without a console error and without a request off loopback."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial, reduce
from itertools import cycle
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import duckdb
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, FloatRect, Locator, Page, sync_playwright

from .local_api import local_api
from .seed import Seeded, empty, seed
from .seed_more import furnish
from .seed_streams import stream
from .support import free_port, wait_until
from .test_load_page import store

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --headless --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
#: What a step of a page may take before the test fails, on a machine that does much else.
TIMEOUT_MS = 180_000
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
DONE = '[data-testid="stApp"][data-test-script-state="notRunning"]'
#: Streamlit loads what draws our styles as a file of its own, which may come after the pictures.
STYLED = '[data-testid="stHtml"] style'
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
        process.wait(120)


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
    store(connection, "run", began=rows.ended)  # before `between` begins
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
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split(), timeout=TIMEOUT_MS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def contexts(browser: Browser) -> Callable[[str, str], BrowserContext]:
    """The browser as it is for people with a screen of that size, in that zone: it keeps the scripts it has loaded."""

    @cache
    def context(size: str, zone: str) -> BrowserContext:
        width, height = SIZES[size]
        theme: Literal["light", "dark"] = "light" if size == "phone" else "dark"
        made = browser.new_context(viewport={"width": width, "height": height}, timezone_id=zone, color_scheme=theme)
        made.set_default_timeout(TIMEOUT_MS)
        return made

    return context


class Visit:
    """One open page, with what it complained about and whom it asked."""

    def __init__(self, page: Page) -> None:
        self.page = page
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
        """Wait until the page's script has run and its styles are there."""
        self.page.wait_for_selector(DONE)
        self.page.wait_for_selector(STYLED, state="attached")

    def pictures(self, n: int) -> Locator:
        """Wait until `n` pictures have drawn marks, and return them."""
        pictures = self.page.locator(PICTURE)
        drawn = pictures.filter(has=self.page.locator(MARKS))
        wait_until(lambda: drawn.count() >= n, what=f"{n} pictures")
        return pictures


Open = Callable[..., Visit]


@pytest.fixture
def window(contexts: Callable[[str, str], BrowserContext]) -> Iterator[Open]:
    """Open a page, on a desktop or a phone and in a zone; none may complain, or ask anybody off loopback."""
    visits: list[Visit] = []

    def opened(size: str = "desktop", zone: str = "UTC") -> Visit:
        visits.append(Visit(contexts(size, zone).new_page()))
        return visits[-1]

    yield opened
    for context in {visit.page.context for visit in visits}:
        for page in context.pages:
            page.close()
    assert [(visit.errors, visit.elsewhere) for visit in visits] == [([], [])] * len(visits)


@pytest.fixture(scope="module")
def between(database: tuple[duckdb.DuckDBPyConnection, Seeded]) -> str:
    """What of an address asks for the whole time of the data, however long ago that is by now."""
    begin, end = database[1].started, database[1].ended
    return f"between={begin:%Y-%m-%dT%H:%M:%S}/{end:%Y-%m-%dT%H:%M:%S}"


#: Each page's title, its path, and its pictures.
PAGES = (
    ("Overview", "", 3), ("Latency", "latency", 4), ("Stages", "stages", 4), ("Violations", "violations", 4),
    ("Token rate", "token-rate", 5), ("GPU runtime", "gpu", 11), ("Trace", "trace", 4), ("Coverage", "coverage", 1),
    ("Map", "map", 1), ("Compare", "compare", 1), ("SQL", "sql", 1), ("Diagnoses", "diagnoses", 1),
    ("Capacity", "capacity", 1),
)  # fmt: skip


def test_every_page_draws_its_pictures_on_a_desktop_and_a_phone_and_asks_nobody_else(
    window: Open, address: str, between: str
) -> None:
    visit = window()
    visit.open(f"{address}/?live=false&{between}")
    for title, path, n in PAGES:
        visit.page.get_by_role("link", name=title, exact=True).click()
        visit.page.get_by_role("heading", name=title, exact=True).wait_for()
        assert urlsplit(visit.page.url).path == f"/{path}"
        visit.done()
        for size, (width, height) in SIZES.items():
            visit.page.set_viewport_size({"width": width, "height": height})
            wait_until(partial(_fits, visit.pictures(n), n, width), what=f"{title}: {n} pictures within a {size}")
            if folder := os.environ.get("TAILBUDGET_PICTURES"):
                visit.page.screenshot(path=f"{folder}/{path or 'overview'}-{size}.png")
        assert visit.page.locator('[data-testid="stException"]').count() == 0
        width, height = SIZES["desktop"]
        visit.page.set_viewport_size({"width": width, "height": height})


#: Of each picture: what screen readers say, its height, and its right edge.
DRAWN = """pictures => pictures.map(picture => {
  const box = picture.getBoundingClientRect();
  return [picture.closest('[role="graphics-document"]').getAttribute('aria-label'), box.height, box.right];
})"""


def _fits(pictures: Locator, n: int, width: int) -> bool:
    drawn = pictures.evaluate_all(DRAWN)
    return len(drawn) == n and all("One row is" in said and high > 80 and right <= width for said, high, right in drawn)


def test_the_steps_of_a_load_run_are_drawn(window: Open, address: str) -> None:
    visit = window()
    visit.open(f"{address}/load?range=1h&live=false")
    wait_until(partial(_fits, visit.pictures(3), 3, SIZES["desktop"][0]), what="3 pictures")
    if folder := os.environ.get("TAILBUDGET_PICTURES"):
        visit.page.screenshot(path=f"{folder}/load.png", full_page=True)


#: What the keyboard is on: its name, its tag, and whether it, or the box around an input, is drawn differently.
FOCUSED = """() => {
  const one = document.activeElement, drawn = getComputedStyle(one);
  const name = one.getAttribute('aria-label') || one.innerText || one.getAttribute('data-testid') || one.tagName;
  const marked = ['rgb(242, 184, 75)', 'rgb(150, 102, 10)'];  // the primary colour of either theme
  let lit = (drawn.outlineStyle !== 'none' && parseFloat(drawn.outlineWidth) > 0) || drawn.boxShadow !== 'none';
  for (let box = one, up = 0; one.tagName === 'INPUT' && box && up < 6; box = box.parentElement, up++)
    lit = lit || marked.includes(getComputedStyle(box).borderColor);
  return [name.split('\\n')[0], one.tagName, lit];
}"""


def test_everything_is_reached_and_used_by_keyboard_and_shows_that_it_is(window: Open, address: str) -> None:
    visit = window()
    visit.open(f"{address}/latency?live=false&range=1h")
    visit.pictures(4)
    visit.page.add_style_tag(content="* { transition: none !important }")  # or a border is read half-way
    stops: list[tuple[str, str, bool]] = []
    for _ in range(80):
        visit.page.keyboard.press("Tab")
        stops.append(tuple(visit.page.evaluate(FOCUSED)))
        if stops[-1][1] == "BODY":
            break
    reached = {name for name, *_ in stops}
    assert {"Overview", "Trace", "SQL", "From/to (UTC)", "Route", "Live", "SQL · CSV", "Slower than, ms"} <= reached
    # A cell of a table, TD, has its frame drawn on the canvas.
    assert {name for name, tag, lit in stops if not lit and tag not in ("BODY", "MAIN", "TD")} == set()
    visit.page.get_by_label("Slower than, ms", exact=True).focus()
    visit.page.keyboard.type("3000")
    visit.page.keyboard.press("Enter")
    visit.page.get_by_text("Who took over 3 s").wait_for()
    visit.page.wait_for_function("location.search.includes('over_ms=3000')")
    visit.done()
    visit.page.get_by_role("button", name="SQL · CSV").first.press("Enter")
    visit.page.get_by_role("button", name="Download the rows").wait_for()
    visit.page.keyboard.press("Escape")
    visit.page.get_by_role("link", name="Map", exact=True).press("Enter")
    visit.page.wait_for_function("location.pathname == '/map'")


def test_filter_range_live_and_a_moment_of_the_quadrant_are_chosen_by_keyboard(window: Open, address: str) -> None:
    visit = window()
    visit.open(f"{address}/gpu?live=false")
    visit.pictures(11)
    told = visit.page.get_by_text("In the step of")
    before = told.inner_text()
    visit.page.get_by_label("Moment", exact=True).focus()
    for key in ("ArrowDown", "ArrowDown", "Enter"):  # it opens on the one after the chosen one
        visit.page.keyboard.press(key)
    wait_until(lambda: told.inner_text() != before, what="the step of another moment")
    visit.page.wait_for_function("location.search.includes('picked=')")
    visit.page.get_by_role("button", name="End the selection").press("Enter")
    visit.page.wait_for_function("!location.search.includes('picked=')")
    visit.page.get_by_label("Live", exact=True).press("Space")
    visit.page.wait_for_function("!location.search.includes('live=false')")
    visit.page.get_by_role("link", name="Latency", exact=True).press("Enter")
    visit.page.wait_for_function("location.pathname == '/latency'")
    visit.pictures(4)
    visit.page.get_by_label("Route", exact=True).focus()
    visit.page.keyboard.type("/summ")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_function("location.search.includes('route=%2Fsummarise')")
    visit.page.get_by_role("radio", name="6h", exact=True).press("Enter")
    visit.page.wait_for_function("location.search.includes('range=6h')")


def _on_a_table(visit: Visit) -> bool:
    visit.page.keyboard.press("Tab")
    return visit.page.evaluate("document.activeElement.tagName") in ("CANVAS", "TD")


def _on_a_link(visit: Visit) -> bool:
    """Go down in a table that has the focus, which takes keys a moment later; return whether it is on a trace."""
    visit.page.keyboard.press("ArrowDown")
    visit.page.wait_for_timeout(200)
    return bool(visit.page.evaluate(r"/^\/trace\?request=[\w-]+$/.test(document.activeElement.textContent)"))


def test_enter_opens_a_link_of_a_table(window: Open, address: str) -> None:
    visit = window()
    visit.open(f"{address}/latency?live=false&range=1h")
    visit.pictures(4)
    visit.page.get_by_role("button", name="SQL · CSV").nth(1).focus()
    wait_until(lambda: _on_a_table(visit), what="a table under the keyboard")
    wait_until(lambda: _on_a_link(visit), what="a link of it")
    with visit.page.expect_popup() as popup:
        visit.page.keyboard.press("Enter")
    popup.value.wait_for_url(re.compile(r"/trace\?request=req-\w+$"), wait_until="commit")


def test_the_heatmap_has_its_cells_and_budget_the_nine_stages_their_n_and_each_picture_its_sql_and_rows(
    window: Open, address: str, between: str
) -> None:
    visit = window()
    visit.open(f"{address}/?live=false&{between}")
    heatmap = visit.pictures(3).nth(0)
    assert heatmap.locator("g.mark-rect path").count() > 60
    assert heatmap.get_by_text("budget 4 s").count() == 1
    bullets = visit.page.locator(PICTURE).nth(1)
    stages = bullets.locator("g.role-axis-label text").all_text_contents()
    assert [text for text in stages if text.isalpha()] == [
        "network", "queue", "retrieval", "prompt", "prefill", "decode", "tools", "post", "other",
    ]  # fmt: skip
    assert len(re.findall(r"\bn \d", " ".join(bullets.locator("g.mark-text text").all_text_contents()))) == 9
    visit.page.get_by_role("button", name="SQL · CSV").first.click()
    visit.page.get_by_text("quantile_cont").or_(visit.page.get_by_text("time_bucket")).first.wait_for()
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Download the rows").click()
    assert download.value.path().read_text().startswith('"t","t2","lo_ms"')


def test_range_and_route_stay_while_one_goes_from_page_to_page_and_back(window: Open, address: str) -> None:
    visit = window()
    visit.open(f"{address}/?range=1h&route=%2Fchat&live=false")
    visit.pictures(3)
    visit.page.get_by_role("link", name="Violations").click()
    visit.page.wait_for_function("location.pathname == '/violations' && location.search.includes('range=1h')")
    visit.pictures(4)
    visit.page.wait_for_function("location.search.includes('route=%2Fchat')")
    visit.page.go_back()
    visit.page.wait_for_function("location.pathname == '/' && location.search.includes('range=1h')")
    visit.page.locator('button[aria-checked="true"]').get_by_text("1h", exact=True).wait_for()
    visit.pictures(3)


def test_a_link_opens_the_trace_of_that_request_and_keeps_naming_it(
    window: Open, address: str, database: tuple[duckdb.DuckDBPyConnection, Seeded]
) -> None:
    over = next(row for row in database[1].rows["violations"] if row["over_stage"] == "retrieval")
    visit = window()
    visit.open(f"{address}/trace?request={over['request_id']}")
    visit.pictures(4)
    visit.page.locator(".cards").get_by_text("retrieval", exact=True).wait_for()
    assert f"request={over['request_id']}" in visit.page.url


def test_a_stall_is_named_on_the_token_timeline_which_has_the_waterfalls_axis(
    window: Open, address: str, database: tuple[duckdb.DuckDBPyConnection, Seeded]
) -> None:
    slowest = max(database[1].rows["requests"], key=lambda row: row["total_ms"])
    visit = window()
    visit.open(f"{address}/trace?request={slowest['request_id']}")
    waterfall, tokens = (visit.pictures(4).nth(place) for place in (0, 1))
    assert tokens.get_by_text("▲ 1.40 s").count() == 1
    assert tokens.get_by_text("▲ 1 stall").count() == 1

    wait_until(partial(_on_one_axis, waterfall.or_(tokens)), what="one time axis of both")
    visit.page.get_by_role("button", name="Copy link").click()
    visit.page.get_by_text(f"{address}/trace?request={slowest['request_id']}", exact=True).wait_for()


def test_a_live_page_shows_a_new_request_by_itself_and_a_paused_one_does_not(
    window: Open, address: str, database: tuple[duckdb.DuckDBPyConnection, Seeded]
) -> None:
    live, paused = window(), window()
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


def _still(drawn: Locator) -> FloatRect:
    """Return the box of what is drawn once it stands still: pictures above it may come or grow."""
    seen: list[FloatRect | None] = [None]

    def stands() -> FloatRect | None:
        seen.append(drawn.bounding_box())
        return seen[-1] if seen[-1] == seen[-2] else None

    return wait_until(stands, what="a box that stands still")


def _drag(visit: Visit, picture: Locator, begin: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over a picture, from and to shares of its width and height."""
    picture.scroll_into_view_if_needed()
    box = _still(picture)
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in (begin, end)]
    visit.page.mouse.move(*points[0])
    visit.page.mouse.down()
    visit.page.mouse.move(*points[1], steps=8)
    visit.page.mouse.up()


def _choose(visit: Visit, label: str, option: str) -> None:
    """Choose from a list as a person does: scroll all the way up, then open it.

    A scroll closes a list, and where only a part of it is in view the browser scrolls to what was clicked.
    """
    visit.page.get_by_test_id("stMain").evaluate(
        "main => { main.scrollTo(0, 0); return new Promise((shown) => requestAnimationFrame(() => setTimeout(shown))) }"
    )
    box = visit.page.get_by_label(label, exact=True)
    _still(box)
    box.click()
    visit.page.get_by_role("option", name=option, exact=True).click()


def test_dragging_over_time_sets_the_range_of_all_pages(window: Open, address: str) -> None:
    visit = window()
    visit.open(f"{address}/?live=false")
    _drag(visit, visit.pictures(3).nth(0), (0.4, 0.5), (0.6, 0.6))
    visit.page.wait_for_function("location.search.includes('between=')")
    visit.done()
    assert visit.page.get_by_label("From/to (UTC)", exact=True).input_value().count("T") == 2
    visit.page.get_by_role("link", name="Stages").click()
    visit.page.wait_for_function("location.pathname == '/stages' && location.search.includes('between=')")
    visit.pictures(4)


def _state(visit: Visit) -> dict[str, object]:
    """Return the address, the controls and the n of the Overview once all of them stand still."""
    visit.done()
    page = visit.page
    return {
        "search": page.evaluate("location.search"),
        "between": page.get_by_label("From/to (UTC)", exact=True).input_value(),
        "range": page.locator('button[aria-checked="true"]:visible').all_inner_texts(),
        "route": page.get_by_label("Route", exact=True).input_value(),
        "n": page.get_by_text("p50 total · n").all_inner_texts(),
        "pictures": visit.pictures(3).count(),
        "title": page.get_by_text("Total latency by time · n").all_inner_texts(),
    }


def _stands(visit: Visit, wanted: dict[str, object]) -> bool:
    return _state(visit) == wanted


def test_back_undoes_each_change_on_a_page_one_at_a_time_and_forward_does_it_again(
    window: Open, address: str, database: tuple[duckdb.DuckDBPyConnection, Seeded]
) -> None:
    begin, end = database[1].started + timedelta(minutes=3), database[1].ended
    visit = window()
    visit.open(f"{address}/?live=false&range=6h")
    steps = [_state(visit)]

    def took(step: Callable[[], None], search: str) -> None:
        step()
        visit.page.wait_for_function(f"location.search.includes({search!r})")
        wait_until(lambda: _state(visit)["n"] != steps[-1]["n"], what=f"another n with {search}")
        steps.append(_state(visit))

    def typed() -> None:
        visit.page.get_by_label("From/to (UTC)", exact=True).fill(f"{begin:%Y-%m-%dT%H:%M:%S}/{end:%Y-%m-%dT%H:%M:%S}")
        visit.page.keyboard.press("Enter")

    took(typed, "between=")
    took(lambda: _drag(visit, visit.pictures(3).nth(0), (0.4, 0.5), (0.6, 0.6)), "between=")
    took(lambda: _choose(visit, "Route", "/chat"), "route=%2Fchat")
    took(lambda: visit.page.locator("button:visible").get_by_text("1h", exact=True).click(), "range=1h")
    assert [one["range"] for one in steps] == [["6h"], [], [], [], ["1h"]]
    assert len({str(one) for one in steps}) == len(steps)
    for way, order in (("back", steps[-2::-1]), ("forward", steps[1:])):
        for wanted in order:
            visit.page.evaluate(f"history.{way}()")
            wait_until(partial(_stands, visit, wanted), what=f"{way} to {wanted}")


def test_back_ends_what_was_picked_and_forward_outlines_it_again(window: Open, address: str) -> None:
    visit = window()
    visit.open(f"{address}/latency?range=1h")
    told = visit.page.get_by_text("Who took")
    outline = visit.page.locator(PICTURE).nth(0).locator("g.layer_2_marks path")
    _drag(visit, visit.pictures(4).nth(0), (0.7, 0.35), (0.95, 0.7))
    visit.page.wait_for_function("location.search.includes('picked=') && location.search.includes('until=')")
    visit.page.get_by_role("button", name="End the selection").wait_for()
    visit.done()
    chosen = told.inner_text()
    visit.page.evaluate("history.back()")
    told.filter(has_text="over 4 s").wait_for()
    visit.page.wait_for_function("!location.search.includes('picked=')")
    wait_until(lambda: outline.count() == 0, what="the outline's end")
    visit.page.evaluate("history.forward()")
    told.filter(has_text=chosen).wait_for()
    outline.wait_for()
    other = window("phone")
    other.open(visit.page.url)
    other.page.get_by_text("Who took").filter(has_text=chosen).wait_for()
    visit.page.get_by_role("button", name="End the selection").click()
    told.filter(has_text="over 4 s").wait_for()


def test_the_card_of_an_objective_opens_its_requests_and_a_control_ends_that(window: Open, address: str) -> None:
    visit = window()
    visit.open(f"{address}/?live=false&range=1h")
    visit.pictures(3)
    visit.page.locator("a.card").filter(has_text="answers · acme").click()
    visit.page.wait_for_function("location.pathname == '/latency' && location.search.includes('only=objective')")
    visit.pictures(4)
    title = visit.page.get_by_text("Total latency by time · n")
    narrowed = title.inner_text()
    _choose(visit, "Only", "all requests")
    wait_until(lambda: title.inner_text() != narrowed, what="all requests")
    visit.page.wait_for_function("!location.search.includes('only=')")
    visit.page.evaluate("history.back()")
    wait_until(lambda: title.inner_text() == narrowed, what="the objective's requests again")
    only = visit.page.get_by_label("Only", exact=True)
    wait_until(lambda: only.input_value() == "objective answers · acme", what="the control to say so")


def test_a_slider_that_is_moved_is_one_step_back(window: Open, address: str) -> None:
    visit = window()
    visit.open(f"{address}/stages?live=false&range=1h")
    visit.pictures(4)
    slider = visit.page.get_by_role("slider")
    before, steps = slider.get_attribute("aria-valuenow"), visit.page.evaluate("history.length")
    box = _still(slider)
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    visit.page.mouse.down()
    for place in range(1, 5):
        visit.page.mouse.move(box["x"] - 30 * place, box["y"])
        visit.page.wait_for_timeout(300)  # longer than it waits to send where it is
    visit.page.mouse.up()
    visit.page.wait_for_function("location.search.includes('at_most_')")
    visit.done()
    assert visit.page.evaluate("history.length") == steps + 1, "steps of history"
    visit.page.evaluate("history.back()")
    wait_until(lambda: slider.get_attribute("aria-valuenow") == before, what="the slider where it was")


def test_times_are_in_the_viewers_zone_and_utc_on_hover(
    window: Open, address: str, database: tuple[duckdb.DuckDBPyConnection, Seeded]
) -> None:
    visit = window(zone="Asia/Kolkata")
    visit.open(f"{address}/latency?live=false&range=1h")
    title = visit.page.get_by_test_id("stCaptionContainer").filter(has_text="Who took")
    (shown,) = re.findall(r"(\d\d:\d\d:\d\d) IST to", title.inner_text())
    title.get_by_role("button", name="Help").hover()
    help_text = visit.page.get_by_role("tooltip").filter(has_text="UTC").inner_text()
    (said,) = re.findall(r"(\d\d:\d\d:\d\d) to .* UTC", help_text)
    ahead = datetime.strptime(shown, "%H:%M:%S") - datetime.strptime(said, "%H:%M:%S")  # noqa: DTZ007 - two clocks
    assert ahead % timedelta(days=1) == timedelta(hours=5, minutes=30)
    box = _still(visit.page.get_by_test_id("stDataFrame").first)
    tooltip = visit.page.get_by_test_id("stDataFrameTooltipContent")
    along_its_head = cycle(range(20, int(box["width"]), 40))

    def told() -> str | None:
        visit.page.mouse.move(box["x"] + next(along_its_head), box["y"] + 18)
        visit.page.wait_for_timeout(300)
        return tooltip.inner_text() if tooltip.count() else None

    assert re.search(r"In Asia/\w+: [\d-]+ [\d:]+ to [\d:]+ UTC\.", wait_until(told, what="the head's words"))
    over = next(row for row in database[1].rows["violations"])
    visit.open(f"{address}/trace?request={over['request_id']}")
    started = visit.page.locator(".leads time")
    assert started.inner_text().endswith("IST")
    assert started.get_attribute("title") == f"{over['started']:%Y-%m-%d %H:%M:%S} UTC"


def test_a_box_over_cells_lists_their_requests_and_pauses_the_live_page(window: Open, address: str) -> None:
    visit = window()
    visit.open(f"{address}/latency?range=1h")
    visit.page.get_by_text("Who took").filter(has_text="over 4 s").wait_for()
    _drag(visit, visit.pictures(4).nth(0), (0.7, 0.35), (0.95, 0.7))
    visit.page.get_by_role("button", name="End the selection").wait_for()
    visit.done()
    chosen = visit.page.get_by_text("Who took").inner_text()
    visit.page.wait_for_timeout(6_000)  # longer than the rhythm of a live page
    assert visit.page.get_by_text("Who took").inner_text() == chosen


def test_a_cell_leads_to_its_requests_and_one_of_them_to_its_trace(window: Open, address: str, between: str) -> None:
    visit = window()
    visit.open(f"{address}/latency?live=false&{between}")
    before = visit.page.get_by_text("Who took").inner_text()
    _drag(visit, visit.pictures(4).nth(0), (0.3, 0.35), (0.9, 0.7))
    wait_until(lambda: visit.page.get_by_text("Who took").inner_text() != before, what="the requests of the box")
    visit.done()
    opened: list[Page] = []
    visit.page.on("popup", lambda page: opened.append(page))

    def clicked() -> list[Page]:
        table = visit.page.get_by_test_id("stDataFrame").first.bounding_box()
        assert table is not None
        # The first row's id, on a canvas that draws when it can.
        visit.page.mouse.click(table["x"] + 40, table["y"] + 52)
        visit.page.wait_for_timeout(1000)
        return opened

    trace = wait_until(clicked, what="the page of the trace")[0]
    trace.wait_for_selector(DONE)
    assert re.search(r"/trace\?request=req-\w+", trace.url)
    wait_until(lambda: trace.locator(PICTURE).count() == 4, what="the pictures of the trace")


#: Of each picture: what its time axis spans, in words, the texts of the labels, and their left edges.
TIME_AXES = """pictures => pictures.map(picture => {
  const axis = picture.querySelector('[aria-label^="X-axis"]');
  const labels = [...axis.querySelectorAll('g.role-axis-label text')];
  return [
    axis.getAttribute('aria-label'),
    labels.map(label => label.textContent),
    labels.map(label => label.getBoundingClientRect().x),
  ];
})"""


def _on_one_axis(pictures: Locator) -> str:
    """Return what the time axis of all pictures spans, once their labels stand below each other; else nothing."""
    (spans, texts, lefts), *others = pictures.evaluate_all(TIME_AXES)
    same = all(one[:2] == [spans, texts] and one[2][:8] == pytest.approx(lefts[:8], abs=2) for one in others)
    return str(spans) if same and len(texts) > 4 else ""


def test_clock_and_power_stand_below_the_rate_on_its_time_axis_with_the_sag_shaded(
    window: Open, address: str, database: tuple[duckdb.DuckDBPyConnection, Seeded]
) -> None:
    # From within a bucket of 20 s, in whose last 5 s there is a sample of the GPU and no bin of a rate.
    begin = datetime.fromtimestamp(database[1].started.timestamp() // 20 * 20 + 60 + 15, UTC)
    visit = window()
    between = "/".join(f"{one:%Y-%m-%dT%H:%M:%S}" for one in (begin, begin + timedelta(minutes=12)))
    visit.open(f"{address}/token-rate?live=false&between={between}")
    pictures = visit.pictures(5)
    below = [pictures.nth(place) for place in range(4)]  # two series, then the GPU's clock and its power

    def shaded() -> bool:
        return all(one.locator("g.layer_1_marks path").count() for one in below)

    wait_until(shaded, what="the sag's shade on each")
    four = reduce(Locator.or_, below)
    spans = wait_until(partial(_on_one_axis, four), what="one time axis of all four")
    assert f":{begin:%M:%S} " in spans
    assert [one.get_by_text("▼ sag, 2.4 times slower").count() for one in below] == [1, 1, 0, 0]
    assert below[2].get_by_text("▼ heat (software)").count() == 1


CENTRES = """points => points.map(point => {
  const box = point.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})"""


def test_the_wrong_corners_are_named_and_a_click_on_a_point_shows_who_was_in_that_step(
    window: Open, address: str
) -> None:
    visit = window()
    visit.open(f"{address}/gpu?live=false")
    quadrant = visit.pictures(11).nth(0)
    for words in ("idle GPU, deep queue:", "a scheduling fault", "busy GPU, empty queue:", "batching misconfigured?"):
        assert quadrant.get_by_text(words).count() == 1
    assert quadrant.locator("g.mark-rect path").count() == 2
    told = visit.page.get_by_text("In the step of")
    before = told.inner_text()
    _still(quadrant)
    # What is told at first is the longest wait, at the top; whichever lies over the lowest point is another.
    x, y = max(quadrant.locator("g.mark-symbol.role-mark path").evaluate_all(CENTRES), key=lambda centre: centre[1])
    visit.page.mouse.click(x, y)
    wait_until(lambda: told.inner_text() != before, what="the step of the point")


def test_a_what_if_is_a_link_that_another_window_opens(
    window: Open, address: str, database: tuple[duckdb.DuckDBPyConnection, Seeded]
) -> None:
    visit = window()
    stretch = (f"{one:%Y-%m-%dT%H:%M:%S}" for one in (database[1].started, database[1].ended))
    visit.open(f"{address}/stages?live=false&between={'/'.join(stretch)}")
    visit.pictures(4)
    told = visit.page.get_by_text("or less,")
    before = told.inner_text()
    slider = visit.page.get_by_role("slider")
    slider.focus()
    slider.press("Home")
    wait_until(lambda: told.inner_text() != before, what="another what-if")
    visit.page.wait_for_function("location.search.includes('at_most_')")
    visit.done()
    other = window("phone")
    other.open(visit.page.url)
    other.pictures(4)
    assert "at 0.0 ms or less" in told.inner_text()
    other.page.get_by_text("or less,").filter(has_text=told.inner_text()).wait_for()


def test_a_diagnosis_leads_to_its_picture_and_a_violation_to_the_report(window: Open, address: str) -> None:
    visit = window()
    visit.open(f"{address}/diagnoses?range=1h&live=false")
    visit.pictures(1)
    visit.page.get_by_text("Latency at that time").first.click()
    visit.page.wait_for_function("location.pathname == '/latency' && location.search.includes('between=')")
    visit.pictures(4)
    visit.done()
    visit.page.get_by_role("link", name="Violations").click()
    visit.page.wait_for_function("location.pathname == '/violations'")
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Incident report").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        assert packed.read("report.md").decode().startswith("# Incident ")
