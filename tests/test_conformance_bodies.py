"""Every captured body is accepted at the path it was sent to, and every span in it is stored."""

import gzip
import json
from pathlib import Path

from .collector_support import collector, span_ids
from .support import CONFORMANCE, wait_until


def test_all_captured_bodies_are_accepted_and_all_their_spans_found(tmp_path: Path) -> None:
    expected: set[tuple[str, int]] = set()
    points = 0
    with collector(tmp_path / "data") as running:
        for manifest in sorted(CONFORMANCE.glob("*/manifest.jsonl")):
            for row in map(json.loads, manifest.read_text().splitlines()):
                body = (manifest.parent / row["file"]).read_bytes()
                headers = {"content_type": row["content_type"], "content_encoding": row["content_encoding"]}
                metrics = row["file"].endswith(".metrics.pb")
                path = "/v1/metrics" if metrics else row["path"]
                assert running.post(path, body, **{k: v for k, v in headers.items() if v})[0] == 200, row
                points += metrics
                if not metrics:
                    expected |= set(span_ids(gzip.decompress(body) if row["content_encoding"] == "gzip" else body))
        assert len(expected) == 365
        assert points == 12
        wait_until(lambda: running.value("select count(*) from spans") >= len(expected))
        stored = running.rows("select replace(trace_id::varchar, '-', '') as t, span_id from spans")
        assert sorted((row["t"], row["span_id"]) for row in stored) == sorted(expected)
        wait_until(lambda: running.value("select count(*) from metrics") == 260)
