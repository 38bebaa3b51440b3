"""The critical path by its definition: from the end of a span back through the child that finished last."""

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from .spans import EPOCH_NS, MS, Span, Trace, assemble, database, one, rows
from .support import shared

STAGES = ("retrieval", "prompt", "tools", "post", None)


def exclusive_ns(spans: list[tuple[int, int | None, int, int]]) -> dict[int, int]:
    """Return the exclusive nanoseconds on the critical path of each span on it; spans are (id, parent, start, end).

    Written from the definition: children are clipped to their parents; from the end of a span the walk goes to the
    child that finished last, and from its start to the sibling that finished last before that. Of two that end
    together the one that began first counts, then the one with the smaller id.
    """
    children: dict[int | None, list[tuple[int, int, int]]] = defaultdict(list)
    for span_id, parent, start, end in spans:
        children[parent].append((span_id, start, end))
    found: dict[int, int] = {}

    def walk(span_id: int, start: int, end: int) -> None:
        clipped = []
        for child, child_start, child_end in children[span_id]:
            begin = min(max(child_start, start), end)
            clipped.append((child, begin, min(max(child_end, begin), end)))
        cursor, inside = end, 0
        while True:
            ended = [kid for kid in clipped if kid[2] <= cursor]
            if not ended:
                break
            last = min(ended, key=lambda kid: (-kid[2], kid[1], kid[0]))
            clipped.remove(last)
            walk(*last)
            inside += last[2] - last[1]
            cursor = last[1]
        found[span_id] = end - start - inside

    for root in children[None]:
        walk(*root)
    return found


def random_tree(rng: random.Random, trace: int) -> list[Span]:
    """Return a request with up to 40 spans that nest, overlap, overflow, coincide and have no length."""
    tree = Trace(trace)
    ids = [tree.add("root", 0, 1000, attrs={"slo.request": "/r"})]
    for _ in range(rng.randrange(1, 40)):
        start = rng.choice([rng.uniform(-50, 1000), rng.randrange(0, 20) * 50])
        length = rng.choice([0, rng.expovariate(1 / 100), rng.randrange(0, 10) * 50])
        stage = rng.choice(STAGES)
        attrs = {"slo.stage": stage} if stage else {}
        ids.append(tree.add("work", start, start + length, under=rng.choice(ids), attrs=attrs))
    return tree.spans


def by_stage(spans: list[Span]) -> dict[str, int]:
    """Return the reference's nanoseconds a stage: a span's own stage, else that of the nearest span above with one."""
    parents = {span.span_id: span for span in spans}

    def stage(span: Span | None) -> str:
        while span is not None and "slo.stage" not in span.attrs:
            span = parents.get(span.parent or -1)
        return str(span.attrs["slo.stage"]) if span else "other"

    sums: dict[str, int] = defaultdict(int)
    table = [(s.span_id, s.parent, EPOCH_NS + round(s.start_ms * MS), EPOCH_NS + round(s.end_ms * MS)) for s in spans]
    for span_id, ns in exclusive_ns(table).items():
        sums[stage(parents[span_id])] += ns
    return {name: ns for name, ns in sums.items() if ns}


def assert_trees_agree(seed: int, trees: int) -> None:
    rng = random.Random(seed)
    forest = {trace: random_tree(rng, trace) for trace in range(1, trees + 1)}
    connection = database()
    assert assemble(connection, [span for tree in forest.values() for span in tree]).requests == trees
    found: dict[int, dict[str, int]] = defaultdict(dict)
    for row in rows(connection, "select trace_id, stage, critical_ms from stages where critical_ms > 0"):
        found[int(str(row["trace_id"]).replace("-", ""), 16)][row["stage"]] = round(row["critical_ms"] * MS)
    for trace, tree in forest.items():
        assert found[trace] == by_stage(tree), f"tree {trace} of seed {seed}"
    assert_sums_hold(connection)


def assert_sums_hold(connection: duckdb.DuckDBPyConnection) -> None:
    columns = " + ".join(
        f"{stage}_ms"
        for stage in ("network", "queue", "retrieval", "prompt", "prefill", "decode", "tools", "post", "other")
    )
    worst = one(connection, f"select max(abs({columns} - total_ms)) as off from requests")
    assert worst["off"] < 1e-6


def test_it_agrees_with_the_definition_on_random_trees() -> None:
    assert_trees_agree(seed=7, trees=300)


@pytest.mark.slow
def test_it_agrees_with_the_definition_on_many_random_trees() -> None:
    assert_trees_agree(seed=11, trees=3000)


def test_parallel_work_does_not_add_up() -> None:
    tree = Trace()
    root = tree.add("root", 0, 100, attrs={"slo.request": "/r"})
    tree.add("a", 10, 60, under=root, attrs={"slo.stage": "retrieval"})
    tree.add("b", 20, 80, under=root, attrs={"slo.stage": "tools"})
    connection = database()
    assemble(connection, tree.spans)
    row = one(connection, "select retrieval_ms, tools_ms, other_ms, total_ms from requests")
    assert row == {"retrieval_ms": 0.0, "tools_ms": 60.0, "other_ms": 40.0, "total_ms": 100.0}
    busy = {row["stage"]: row["busy_ms"] for row in rows(connection, "select stage, busy_ms from stages")}
    assert busy == {"retrieval": 50.0, "tools": 60.0, "other": 40.0}


def test_a_frameworks_empty_container_beside_what_runs_is_off_the_path_and_other_spans_are_not() -> None:
    found = {}
    for name, attrs in (("framework", {"openinference.span.kind": "CHAIN"}), ("own", {"k": "v"})):
        tree = Trace()
        root = tree.add("root", 0, 100, attrs={"slo.request": "/r"})
        tree.add("a", 10, 80, under=root, attrs={"slo.stage": "tools"})
        reader = tree.add("reads", 40, 90, under=root, attrs=attrs)
        tree.add("after", 92, 99, under=root, attrs=attrs)
        connection = database()
        assemble(connection, tree.spans)
        found[name] = one(connection, "select tools_ms, other_ms from requests")
        tree.add("b", 50, 60, under=reader, attrs={"slo.stage": "post"})
        assemble(connection := database(), tree.spans)
        found[f"{name}, not empty"] = one(connection, "select tools_ms, post_ms from requests")
    on_the_path = {"tools_ms": 0.0, "post_ms": 10.0}
    assert found == {
        "framework": {"tools_ms": 70.0, "other_ms": 30.0}, "framework, not empty": on_the_path,
        "own": {"tools_ms": 0.0, "other_ms": 100.0}, "own, not empty": on_the_path,
    }  # fmt: skip


def jaeger_cases() -> Iterator[tuple[str, list[Span]]]:
    for path in sorted(shared("data").glob("crisp_jaeger/*.json")):
        yield path.name, jaeger_spans(path)


def jaeger_spans(path: Path) -> list[Span]:
    trace = json.loads(path.read_text(encoding="utf-8"))["data"][0]
    ids = {span["spanID"]: number for number, span in enumerate(trace["spans"], start=1)}
    spans: list[Span] = []
    for span in trace["spans"]:
        parents = [ref["spanID"] for ref in span["references"] if ref["refType"] == "CHILD_OF"]
        parent = ids.get(parents[0], 10_000 + len(spans)) if parents else None
        start_ms = span["startTime"] / 1000
        attrs = {} if parents else {"slo.request": "/r"}
        spans.append(
            Span(
                span["operationName"], start_ms, start_ms + span["duration"] / 1000, ids[span["spanID"]], parent, attrs
            )
        )
    return spans


def test_crisp_cases_agree_with_the_definition() -> None:
    cases = list(jaeger_cases())
    assert len(cases) >= 25
    for name, spans in cases:
        staged = [
            Span(
                s.name,
                s.start_ms,
                s.end_ms,
                s.span_id,
                s.parent,
                {**s.attrs, "slo.stage": STAGES[s.span_id % 4] or "post"},
            )
            for s in spans
        ]
        connection = database()
        assemble(connection, staged)
        found = {
            row["stage"]: round(row["critical_ms"] * MS)
            for row in rows(connection, "select stage, critical_ms from stages where critical_ms > 0")
        }
        known = {s.span_id for s in staged}
        assert found == by_stage([s for s in staged if s.parent is None or s.parent in known]), name
