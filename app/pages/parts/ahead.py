"""Asks what Map shows when the dashboard starts, so that who opens it first need not wait."""

from collections.abc import Callable
from typing import Final

from tailbudget.analytics import service_map
from tailbudget.analytics.reader import QueryError

from . import answers

#: Before each try: a collector that starts together with the dashboard answers after some of them.
PAUSES_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def ask(pause: Callable[[float], bool]) -> None:
    """Ask a collector, until it answers or there were as many tries as PAUSES_S; another engine is not asked.

    `pause` waits for so many seconds, or returns True where there is no need for more. Raises nothing: who opens the
    page is told what is wrong.
    """
    if not answers.from_collector():
        return
    for pause_s in PAUSES_S:
        if pause(pause_s):
            return
        try:
            answers.prepare(service_map.edges)
            answers.prepare(service_map.services)
        except QueryError:
            continue
        except Exception:  # noqa: BLE001 - such as an address that is none
            return
        return
