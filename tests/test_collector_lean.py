"""A collector's process holds nothing that it never uses."""

import importlib.util
import subprocess
import sys

import pytest

CONVERT = """
import sys
from tailbudget.collector.lean import become_lean
become_lean()
import pyarrow as pa
assert pa.array([1, None]).to_pylist() == [1, None]
print(pa.default_memory_pool().backend_name, "pandas" in sys.modules)
import pandas
"""


@pytest.mark.skipif(not importlib.util.find_spec("pandas"), reason="pandas is not installed")
def test_conversions_leave_pandas_alone_and_whoever_wants_it_can_import_it() -> None:
    done = subprocess.run([sys.executable, "-c", CONVERT], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("system False\n", "")
