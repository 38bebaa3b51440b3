"""The collector's read API over one DuckDB connection on loopback, for pages to be tested without spans."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from tailbudget.collector.api.http import ApiApp
from tailbudget.collector.api.queries import Queries
from tailbudget.collector.counters import Counters
from tailbudget.collector.servers import bind, server

from .support import free_port, wait_until


@contextmanager
def local_api(connection: duckdb.DuckDBPyConnection, *, ready: bool = True, fault: str | None = None) -> Iterator[str]:
    """Yield the address of a server that answers `POST /v1/sql` from `connection`, which stays open."""
    port = free_port()
    queries = Queries(connection.cursor())
    api = server(ApiApp(queries, counters=Counters(), ready=lambda: ready, hosts=None, fault=lambda: fault))
    with bind("127.0.0.1", port, setting="the test") as listener:
        thread = threading.Thread(target=api.run, args=([listener],), daemon=True)
        thread.start()
        wait_until(lambda: api.started, what="the API")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            api.should_exit = True
            thread.join()
            queries.close()
