"""Two minutes at half of the capacity, with readers and sealing: flat memory, a bounded journal, no error."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from soak import soak


@pytest.mark.slow
def test_two_minutes_at_half_of_the_capacity_leave_memory_flat_and_every_span_stored_once(tmp_path: Path) -> None:
    found = soak(tmp_path / "data", seconds=120)
    assert found.verdict == []
