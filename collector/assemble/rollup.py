"""Keeps the roll-up small: minutes become hours after a day, and the smallest tenants of a past day one."""

from datetime import datetime

import duckdb

from .statements import Statements


def pack_rollup(connection: duckdb.DuckDBPyConnection, now: datetime) -> None:
    """Pack `rollup_minute` in one transaction, to be called each hour; sums over whole hours stay what they were."""
    connection.begin()
    try:
        Statements(connection).run("pack_rollup", now=now)
    except BaseException:
        connection.rollback()
        raise
    connection.commit()
