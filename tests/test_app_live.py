"""A live page sends the browser again only what changed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tailbudget.app.pages.parts import answers, controls

from .local_api import local_api
from .seed import empty, seed
from .seed_more import furnish

ENDED = datetime.now(UTC) - timedelta(minutes=5)
#: Pages, and how many of their pictures and tables have no axis of time, which moves.
STILL = {"overview": (2, 0), "latency": (2, 1), "stages": (2, 0), "gpu": (1, 0), "service_map": (1, 2)}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    connection = empty(Path(tmp_path_factory.mktemp("data")))
    furnish(connection, seed(connection, ended=ENDED, minutes=13))
    with local_api(connection) as found:
        yield found
    connection.close()


def _script(name: str) -> None:
    import importlib

    from tailbudget.app.pages.parts import controls

    controls.show("page")
    importlib.import_module(f"tailbudget.app.pages.{name}").page()


def _sent(app: AppTest) -> tuple[list[bytes], list[bytes]]:
    """Return the messages of pictures and of tables."""
    assert not app.exception
    pictures = [one.proto.SerializeToString() for one in app.get("vega_lite_chart")]
    return pictures, [one.proto.SerializeToString() for one in app.dataframe]


@pytest.mark.parametrize("name", STILL)
def test_what_did_not_change_is_the_same_message(monkeypatch: pytest.MonkeyPatch, api: str, name: str) -> None:
    answers.forget()
    monkeypatch.setenv("TAILBUDGET_API", api)
    instant = datetime.now(UTC)
    monkeypatch.setattr(controls, "now", lambda **_: instant)
    app = AppTest.from_function(_script, args=(name,), default_timeout=30)
    app.query_params["range"] = "1h"
    before = _sent(app.run())
    instant += timedelta(seconds=5)
    after = _sent(app.run())
    for had, has, still in zip(before, after, STILL[name], strict=True):
        assert len(had) == len(has)
        assert sum(one == other for one, other in zip(had, has, strict=True)) >= still
    if name == "overview":  # the window has moved on
        assert before[0][0] != after[0][0]
