"""How many workers pytest-xdist has, and what comes first; httpx and Hypothesis wait; imports are no garbage."""

import gc
import os
import sys

import httpx
import pytest
from hypothesis import HealthCheck, settings

#: Files that take longest, begun first, so that no worker is left with one of them in the end.
LONGEST = (
    "test_app_browser",
    "test_up",
    "test_first_light",
    "test_instrument_zero_code",
    "test_burn_alerts",
    "test_load_lands",
    "test_diagnoses_service",
    "test_collector_lifecycle",
    "test_seal_kill",
    "test_alert_delivery",
    "test_forward",
    "test_demo_guards",
    "test_seal",
    "test_collector_faults",
    "test_otlp_grpc",
    "test_sag_alerts",
    "test_assemble_live",
    "test_app_serve",
    "test_scrape",
    "test_gpu_energy",
    "test_runtime_choices",
    "test_rollup",
    "test_several",
    "test_snapshot",
    "test_retention",
    "test_forget",
)

# A module is compiled once, whatever the environment asks for: anew in each of hundreds of processes it is 0.1 of the
# 0.8 CPU-seconds of a collector.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Its own 5 s are not much for a server that shares a busy machine; no passing test feels more.
httpx._config.DEFAULT_TIMEOUT_CONFIG.__init__(timeout=120)  # type: ignore[misc]

# The same examples each time, however long one takes: Hypothesis' own bound is 200 ms of a wall clock.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return three workers for two cores: a third of its time a test waits for what it has started."""
    return max(1, (os.cpu_count() or 1) * 3 // 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, and leave the others as they are."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Leave out of every search for garbage what importing all tests has made: it is much, and stays."""
    gc.collect()
    gc.freeze()
