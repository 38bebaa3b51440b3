"""Takes the README's pictures of a running `make up`: python docs/take_pictures.py [dashboard address [range]]."""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).parent / "pictures"
PAGES = {"overview": "", "violations": "violations", "token-rate": "token-rate"}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
DONE = '[data-testid="stApp"][data-test-script-state="notRunning"]'


def main(address: str, span: str = "5m") -> None:
    """Write one PNG a page, 1440 pixels wide, of a range: of five minutes both incidents, at 350 s of the demo."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="dark")
        for name, path in PAGES.items():
            page.goto(f"{address}/{path}?range={span}", wait_until="networkidle")
            page.wait_for_selector(DONE)
            page.wait_for_timeout(1500)  # the charts' own animation frames
            page.screenshot(path=PICTURES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:] or ["http://127.0.0.1:8501"])
