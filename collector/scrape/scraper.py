"""One thread a target: asks for /metrics every few seconds, within a time and a size, and hands on what it found."""

import http.client
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from tailbudget.instrument.errors import UserError

from ..counters import Counters
from .body import body
from .series import Deltas, Exposition, NoEngineError, read

log: Final = logging.getLogger(__name__)

TIMEOUT_S: Final = 3.0
#: vLLM tells about 100 kB a model.
MAX_BYTES: Final = 8 * 1024 * 1024
CHUNK_BYTES: Final = 64 * 1024


def target(url: str) -> str:
    """Return the address to ask, `/metrics` where the URL has no path. Raises UserError for what is no such URL."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        good = False
    if not good or parts.username is not None or not url.isprintable() or " " in url:
        raise UserError(f"scrape is {url!r}: expected an engine's address, such as http://127.0.0.1:8000")
    return url if parts.path.strip("/") else f"{url.rstrip('/')}/metrics"


class Scraper:
    """Scrapes the targets until `close`; `deliver` takes OTLP metrics bodies, and raises when one cannot be taken."""

    def __init__(
        self, urls: Sequence[str], *, every_s: float, deliver: Callable[[bytes], None], counters: Counters
    ) -> None:
        self._every_s = every_s
        self._deliver = deliver
        self._counters = counters
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(target(url),), name="scrape") for url in urls]

    def start(self) -> None:
        """Begin to scrape."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads, within the time that one scrape may take."""
        self._ended.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self, url: str) -> None:
        instance = urlsplit(url).netloc
        deltas, last_ns, said = Deltas(), None, ""
        while not self._ended.is_set():
            now_ns = time.time_ns()
            try:
                found: Exposition | None = read(_fetch(url))
                reason = ""
            except (OSError, http.client.HTTPException, NoEngineError) as error:
                found, reason = None, f"{type(error).__name__}: {error}"
            if reason != said and reason:
                log.warning("%s cannot be scraped: %s", url, reason)
            said = reason
            self._counters.scrape_up.labels(instance).set(found is not None)
            self._counters.scrapes.labels(instance, "failed" if found is None else "ok").inc()
            try:
                self._deliver(body(instance, found, deltas, last_ns=last_ns, now_ns=now_ns))
            except Exception as error:  # noqa: BLE001 - a full journal must not end the thread; the next delta is longer
                self._counters.dropped("metrics", "scrape_not_taken")
                log.warning("what %s told was not stored: %s", url, error)
            last_ns = now_ns if found else None
            self._ended.wait(self._every_s)


def _fetch(url: str) -> str:
    """Return the answer's text. Raises OSError, also for one that takes too long or is too large."""
    give_up_s = time.monotonic() + TIMEOUT_S
    parts: list[bytes] = []
    size = 0
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - `target` lets http and https through
        while chunk := answer.read1(CHUNK_BYTES):
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_BYTES:
                raise OSError(f"more than {MAX_BYTES} bytes")
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"no whole answer within {TIMEOUT_S:g} s")
    return b"".join(parts).decode("utf-8", errors="replace")
