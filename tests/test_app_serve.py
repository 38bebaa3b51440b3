"""The dashboard ends cleanly when told to, and says in one line why it cannot start."""

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from streamlit.testing.v1 import AppTest

from tailbudget.app import dashboard
from tailbudget.instrument.errors import UserError

from .support import free_port, wait_until


def _start(port: int, home: str, api: str = "http://127.0.0.1:9") -> subprocess.Popen[str]:
    code = f"from tailbudget.app.dashboard import serve; serve(api={api!r}, host='127.0.0.1', port={port})"
    command, env = [sys.executable, "-c", code], {**os.environ, "HOME": home}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_once_or_twice_ends_it_without_a_traceback_or_anything_in_the_home_folder(
    tmp_path_factory: pytest.TempPathFactory, number: signal.Signals, times: int
) -> None:
    port, home = free_port(), tmp_path_factory.mktemp("home")
    process = _start(port, str(home))
    wait_until(lambda: _answers(port), what="the dashboard")
    for _ in range(times):
        process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Traceback" not in output
    assert not _answers(port)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("after_s", [0.1, 0.5, 0.8, 1.1, 1.4])
def test_a_signal_while_it_starts_ends_it_without_a_traceback(after_s: float) -> None:
    code = (
        "import os, signal, threading; from tailbudget.app.dashboard import serve; "
        f"threading.Timer({after_s}, os.kill, (os.getpid(), signal.SIGINT)).start(); "
        f"serve(api='http://127.0.0.1:9', host='127.0.0.1', port={free_port()})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_signal_while_the_event_loop_is_made_ends_it_without_a_traceback() -> None:
    code = (
        "import os, signal; from asyncio.base_events import BaseEventLoop as Loop; kept = Loop.set_debug; "
        "Loop.set_debug = lambda *given: (os.kill(os.getpid(), signal.SIGINT), kept(*given)); "
        "from tailbudget.app.dashboard import serve; "
        f"serve(api='http://127.0.0.1:9', host='127.0.0.1', port={free_port()})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_start_asks_for_the_map_until_the_collector_answers_and_says_nothing_of_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    asked: list[str] = []

    class Starting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Starting) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        process = _start(free_port(), str(tmp_path_factory.mktemp("home")), f"http://127.0.0.1:{collector.server_port}")
        wait_until(lambda: len(asked) > 2, what="the third try")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
        collector.shutdown()
    assert (process.returncode, output.split()) == (0, ["Stopping..."])
    assert all("map_edges" in one for one in asked)


def test_a_taken_port_is_one_line_that_names_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{port}: .* --port or TAILBUDGET_APP_PORT"):
            dashboard.serve(api="http://127.0.0.1:9", host="127.0.0.1", port=port)


def test_wrong_sag_settings_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILBUDGET_SAG", "1,two")
    with pytest.raises(UserError, match="1,two"):
        dashboard.serve(api="http://127.0.0.1:9", host="127.0.0.1", port=free_port())


def test_nothing_is_reported_to_anybody_and_no_browser_is_opened() -> None:
    settings = dashboard.settings()
    assert settings["browser.gatherUsageStats"] is False
    assert settings["server.headless"] is True


def test_no_run_of_a_page_is_followed_by_a_look_through_all_of_pythons_objects() -> None:
    assert dashboard.settings()["runner.postScriptGC"] is False


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "dashboard.example"])
def test_others_are_not_let_in_without_a_token_or_an_explicit_word(host: str) -> None:
    assert not dashboard.is_loopback(host)
    if host in ("0.0.0.0", "::"):
        with pytest.raises(UserError, match=r"TAILBUDGET_TOKEN or --token-file.*--no-auth"):
            dashboard.serve(api="http://127.0.0.1:9", host=host, port=free_port())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_this_machine_is_not_asked(host: str) -> None:
    assert dashboard.is_loopback(host)


def _gated() -> None:
    import streamlit as st

    from tailbudget.app.pages.parts import gate

    if gate.passed():
        st.write("inside")


def test_the_pages_show_nothing_until_the_token_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILBUDGET_APP_ASKS_FOR", "open-sesame")
    app = AppTest.from_function(_gated).run()
    assert [part.value for part in app.markdown] == []
    app.text_input[0].input("open-sesam").run()
    assert "not the token" in app.error[0].value
    assert [part.value for part in app.markdown] == []
    app.text_input[0].input("open-sesame").run()
    assert [part.value for part in app.markdown] == ["inside"]
