"""A kill -9 before and after every step of sealing and of retention loses and doubles nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tailbudget.collector.land.database import open_database

from .test_seal import LATER, content, land, metrics, seal, traces

#: Forks before anything has threads; each child opens a copy of the folder and is killed at its step, counted by every
#: statement, write, sync and unlink that the work is about to do.
PROGRAM = """
import json, os, pathlib, shutil, signal, sys
from datetime import datetime
from tailbudget.collector.land import database
from tailbudget.collector.seal import parquet, sealer
from tailbudget.collector.seal.sealer import Sealer, delete_unlisted

data, work, now = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), datetime.fromisoformat(sys.argv[3])
sealer.SLICE_ROWS = 60
database.create_or_check = lambda connection, name: None  # which the folder that is copied has been through
left = None

def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def around(function):
    def stepped(*args, **more):
        if not str(args[0]).startswith("comment on"):  # 60 a transaction, all alike
            step()
        return function(*args, **more)
    return stepped

class Connection:
    def __init__(self, real):
        self.execute, self.cursor = around(real.execute), real.cursor

def work_on(folder):
    real = database.open_database(folder)
    delete_unlisted(real, folder)
    found = Sealer(Connection(real), folder)
    while found.tick(now):
        pass
    real.close()

os.fsync, pathlib.Path.unlink = around(os.fsync), around(pathlib.Path.unlink)
parquet.ParquetFile.write = around(parquet.ParquetFile.write)
kills = 0
for number in range(1, 10_000):
    folder = work / str(number)
    shutil.copytree(data, folder)
    pid = os.fork()
    if pid == 0:
        left = number
        work_on(folder)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        shutil.rmtree(folder)
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    kills += 1
print(json.dumps(kills))
"""


@pytest.mark.parametrize("every_table", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_kill_at_every_step_of_sealing_loses_and_doubles_nothing(tmp_path: Path, *, every_table: bool) -> None:
    data, work = tmp_path / "data", tmp_path / "killed"
    with open_database(data) as connection:
        land(connection, traces(80, seed=1), *([metrics(5, seed=2)] if every_table else []))
        seal(connection, data)
        land(connection, traces(100, seed=3))
        if not every_table:
            connection.execute("delete from span_events_open")
            connection.execute("delete from span_links_open")
        before = content(connection)
    command = [sys.executable, "-c", PROGRAM, str(data), str(work), LATER.isoformat()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) > 10
    sealed = 0
    for folder in work.iterdir():
        with open_database(folder) as connection:
            assert content(connection) == before, folder.name
            (found,) = connection.execute("select count(*) from sealed_files").fetchall()
            sealed = max(sealed, found[0])
    assert sealed > len(list(data.glob("sealed/*/*"))), "the last kills came after a commit"
