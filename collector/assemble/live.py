"""Ends the requests in table `live` that run no more, and gives up those of which nothing more is heard."""

from datetime import datetime
from typing import Final

import duckdb

from .file_budgets import FileBudgets
from .statements import Statements

HEARD_NOW: Final = "update live set heard = $now where outcome is null"


class Live:
    """Looks after table `live` on one connection, which no other thread may use meanwhile."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, budgets: FileBudgets | None = None) -> None:
        self._connection = connection
        self._budgets = budgets or FileBudgets(connection)
        self._statements = Statements(connection)
        self._began = False

    def tick(self, now: datetime) -> None:
        """Close what has a request by now, and give up what was not heard of for 15 s.

        A trace whose request was lost, or was heard of again after that, is marked to be assembled. Senders get 15 s
        after a start too: nobody could be heard before.
        """
        if not self._began:
            self._connection.execute(HEARD_NOW, {"now": now}).fetchall()
            self._began = True
        if not self._connection.execute("select count(*) from live").fetchall()[0][0]:
            return
        self._budgets.refresh()
        self._connection.begin()
        try:
            self._statements.run("silent", now=now)
            self._budgets.apply_to_running()
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()
