"""Reads from ClickHouse, over HTTP, what collectors have written there with `--store`."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

import pyarrow as pa

from tailbudget.analytics.reader import QueryError
from tailbudget.instrument.errors import UserError

from .catalog import catalog, conformed, reason

PORT: Final = 8123
#: As DuckDB does: names of columns before aliases, null for what a join or an empty group lacks, the newest of a key.
SETTINGS: Final = {
    "prefer_column_name_to_alias": 1,
    "join_use_nulls": 1,
    "aggregate_functions_null_for_empty": 1,
    "final": 1,
    "session_timezone": "UTC",
    "output_format_arrow_string_as_string": 1,
    "output_format_json_escape_forward_slashes": 0,
}


def connect(url: str) -> Any:
    """Return a client for `clickhouse://[user[:password]@]host[:port]/database`, `clickhouses://` with TLS.

    Raises UserError for another address or without the package, QueryError when nothing answers.
    """
    parts = checked(url)
    try:
        import clickhouse_connect
        from clickhouse_connect.driver.exceptions import ClickHouseError
    except ImportError as error:
        raise UserError("ClickHouse needs a package: pip install 'tailbudget[scale]'") from error
    try:
        return clickhouse_connect.get_client(
            host=parts.hostname,
            port=parts.port or PORT,
            username=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            database=parts.path.strip("/") or "default",
            secure=parts.scheme == "clickhouses",
            autogenerate_session_id=False,
            connect_timeout=10,
            send_receive_timeout=300,
        )
    except ClickHouseError as error:
        raise QueryError(
            f"no ClickHouse answers at {parts.hostname}:{parts.port or PORT}: {error}", unreachable=True
        ) from error


def checked(url: str) -> SplitResult:
    """Return the parts of a ClickHouse's address; raises UserError for another."""
    parts = urlsplit(url)
    if parts.scheme not in ("clickhouse", "clickhouses") or not parts.hostname:
        raise UserError(f"{url!r} is no ClickHouse: expected clickhouse://user:password@host:8123/database")
    return parts


class ClickHouseReader:
    """Answers questions from the database at `url`; threads may share it."""

    def __init__(self, url: str) -> None:
        self.client = connect(url)

    def query(self, sql: str, params: Mapping[str, object] = {}) -> pa.Table:
        """Return the rows of `sql`, as DuckDB would name and type them; raises QueryError."""
        from clickhouse_connect.driver.exceptions import ClickHouseError

        from .translate import asks_catalog, translate  # sqlglot is of the extra `scale`

        shape = catalog().shape(sql, params)
        if asks_catalog(sql):
            return shape
        text = translate(sql, params, "clickhouse")
        try:
            found = self.client.query_arrow(text, settings=SETTINGS, use_strings=True)
        except ClickHouseError as error:
            raise QueryError(f"ClickHouse cannot answer this: {reason(error)}") from error
        return conformed(found, shape.schema)
