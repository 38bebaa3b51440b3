"""The engine batches anew at every step, keeps requests apart, and survives whatever one of them does."""

import threading
from collections.abc import Sequence

import pytest
import torch

from tailbudget.gpu_runtime.engine import EngineFullError, EngineStoppedError
from tailbudget.gpu_runtime.model import Segment
from tailbudget.gpu_runtime.runner import Logits, Runner
from tests.runtime_support import Notes, engine, on_devices, page_tokens
from tests.support import wait_until

PROMPTS = [
    "The river runs",
    "A request waits in a queue",
    "June",
    "The train leaves at noon, the garden is green",
    "é 12",
]


@on_devices
def test_a_batch_gives_each_request_what_it_gets_alone(device: str) -> None:
    with engine(device=device) as bench:
        alone = []
        for prompt in PROMPTS:
            generation = bench.submit(prompt, max_tokens=40)
            bench.finish(generation)
            alone.append(generation.output)
    with engine(prefill_chunk=3, device=device) as bench:
        together = [bench.submit(prompt, max_tokens=40) for prompt in PROMPTS]
        for generation in together:
            bench.finish(generation)
    assert [generation.output for generation in together] == alone
    assert len({tuple(output) for output in alone}) == len(PROMPTS)
    assert max(generation.batch_peak for generation in together) > 1


@on_devices
def test_a_late_request_gets_its_first_token_before_the_running_one_ends(device: str) -> None:
    with engine(device=device, step_delay_ms=5) as bench:
        early = bench.submit("The river", max_tokens=200)
        wait_until(lambda: len(early.output) > 3)
        late = bench.submit("June", max_tokens=3)
        bench.finish(late)
        assert early.end is None
        early.cancelled = True
        bench.finish(early)


@on_devices
def test_a_client_that_leaves_frees_its_place_within_a_step(device: str) -> None:
    with engine(device=device, max_running=1, step_delay_ms=20) as bench:
        leaving = bench.submit("The river", max_tokens=400)
        waiting = bench.submit("June", max_tokens=2)
        wait_until(lambda: leaving.output)
        leaving.cancelled = True
        tokens = len(leaving.output)
        bench.finish(leaving)
        assert len(leaving.output) <= tokens + 1
        assert (leaving.end, leaving.finish) == ("cancelled", None)
        assert bench.finish(waiting)
        assert (bench.engine.running, bench.engine.kv_used) == (0, 0.0)


@on_devices
def test_greedy_requests_bring_no_logits_to_the_host_and_get_what_choosing_from_them_gives(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine(device=device, speculate=3) as bench:
        # A bias that changes nothing has the logits looked at.
        looked = bench.submit("The river", max_tokens=40, logit_bias=((5, 0.0),))
        bench.finish(looked)
        monkeypatch.setattr(Logits, "rows", property(lambda _: 1 / 0))
        greedy, drawn = bench.submit("The river", max_tokens=40), bench.submit("The river", temperature=1.0)
        bench.finish(greedy)
        bench.finish(drawn)
    assert greedy.output == looked.output
    assert (greedy.end, drawn.end) == ("complete", "error")


@on_devices
def test_a_client_that_leaves_while_waiting_is_never_computed(device: str) -> None:
    with engine(device=device, max_running=1, step_delay_ms=5) as bench:
        running = bench.submit("The river", max_tokens=100)
        wait_until(lambda: running.output)
        waiting = bench.submit("June")
        waiting.cancelled = True
        bench.finish(waiting)
        assert (waiting.prefill_ns, waiting.output, running.end) == (None, [], None)


@on_devices
def test_an_error_ends_its_own_request_and_no_other(device: str) -> None:
    with engine(device=device) as bench:
        good = bench.submit("The river", max_tokens=30)
        bad = bench.submit([10**9], max_tokens=5)
        also_good = bench.submit("June", max_tokens=30)
        bench.finish(bad)
        assert (bad.end, bad.error) == ("error", "IndexError in the engine")
        for generation in (good, also_good, bench.submit("noon", max_tokens=3)):
            bench.finish(generation)
            assert generation.end == "complete"


@on_devices
def test_memory_that_runs_out_in_a_batch_is_answered_and_not_fatal(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine(device=device, step_delay_ms=5) as bench:
        whole, runner = bench.finish(bench.submit("June", max_tokens=20)), bench.engine._runner
        forward = runner.forward

        def short(segments: Sequence[Segment]) -> Logits:
            if len(segments) > 1 or len(segments[0].tokens) > 100:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(segments)

        monkeypatch.setattr(runner, "forward", short)
        sent = [bench.submit("June", max_tokens=20) for _ in range(3)]
        huge = bench.submit([7] * 110, max_tokens=5)
        assert [bench.finish(generation) for generation in sent] == [whole] * 3
        bench.finish(huge)
        assert (huge.end, huge.error) == ("error", "OutOfMemoryError in the engine")
        assert bench.finish(bench.submit("June", max_tokens=20)) == whole
        assert bench.engine.kv_used == 0


@on_devices
def test_warming_up_computes_a_whole_chunk_and_every_batch_of_decoding(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[list[int]] = []
    forward = Runner.forward

    def noted(runner: Runner, segments: Sequence[Segment]) -> Logits:
        computed.append([len(segment.tokens) for segment in segments])
        return forward(runner, segments)

    with engine(device=device, max_running=4, prefill_chunk=32) as bench:
        monkeypatch.setattr(Runner, "forward", noted)
        bench.engine.warm_up()
    assert computed == [[32], [1], [1, 1], [1, 1, 1], [1, 1, 1, 1]]


def test_a_warm_up_that_is_given_up_ends_with_the_shape_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    forward = Runner.forward

    def noted(runner: Runner, segments: Sequence[Segment]) -> Logits:
        computed.append(len(segments))
        return forward(runner, segments)

    with engine(max_running=200) as bench:
        monkeypatch.setattr(Runner, "forward", noted)
        bench.engine.warm_up(given_up=lambda: len(computed) == 3)
    assert computed == [1, 1, 2]


@on_devices
def test_the_step_delay_slows_decoding_and_may_change_at_any_time(device: str) -> None:
    with engine(device=device) as bench:
        bench.engine.step_delay_ms = 30
        slow = bench.submit("The river", max_tokens=6)
        bench.finish(slow)
        assert slow.first_token_ns is not None
        assert slow.ended_ns is not None
        assert slow.ended_ns - slow.first_token_ns >= 5 * 30e6
        bench.engine.step_delay_ms = 0
        fast = bench.submit("The river", max_tokens=6)
        bench.finish(fast)
        assert fast.output == slow.output
        assert fast.ended_ns is not None
        assert fast.first_token_ns is not None
        assert fast.ended_ns - fast.first_token_ns < 5 * 30e6


@on_devices
def test_decode_time_counts_every_stream_for_every_step_with_the_delay(device: str) -> None:
    notes = Notes()
    with engine(notes, device=device, step_delay_ms=10) as bench:
        both = [bench.submit(prompt, max_tokens=10) for prompt in ("The river", "June")]
        for generation in both:
            bench.finish(generation)
    decode_ns = [g.ended_ns - g.first_token_ns for g in both if g.ended_ns and g.first_token_ns]
    assert notes.tokens == 2 * 9
    assert notes.active_ns == sum(decode_ns)
    assert notes.streams == 0


@on_devices
def test_the_steps_of_a_busy_engine_fill_all_of_its_time(device: str) -> None:
    with engine(device=device, prefill_chunk=4) as bench:
        for _ in range(2):
            before_ns = bench.engine.counts.step_ns
            generation = bench.submit("The river runs to the sea", max_tokens=20)
            bench.finish(generation)
            assert generation.prefill_ns is not None
            assert generation.ended_ns is not None
            # What the loop does between two steps is part of the next; what it sleeps before a request is part of none.
            assert bench.engine.counts.step_ns - before_ns == generation.ended_ns - generation.prefill_ns


@on_devices
def test_a_full_queue_refuses(device: str) -> None:
    with engine(device=device, max_running=1, max_waiting=2, step_delay_ms=5) as bench:
        running = bench.submit("The river", max_tokens=400)
        wait_until(lambda: running.output)
        waiting = [bench.submit("June"), bench.submit("June")]
        with pytest.raises(EngineFullError, match="runs 1 requests and queues 2"):
            bench.submit("June")
        for generation in (running, *waiting):
            generation.cancelled = True


@on_devices
def test_a_request_beyond_the_context_is_refused_and_a_small_cache_makes_it_smaller(device: str) -> None:
    context = 4 * page_tokens(device)
    with engine(device=device, max_running=2, max_context=2048, kv_pages=context // 16) as bench:
        assert bench.engine.context == context
        with pytest.raises(ValueError, match=f"more than {context} tokens"):
            bench.submit([5] * 10, max_tokens=context - 9)
        bench.finish(bench.submit([5] * (context - 10), max_tokens=10))


@on_devices
def test_stopping_ends_what_runs_and_refuses_what_comes(device: str) -> None:
    with engine(device=device, max_running=1, step_delay_ms=10_000) as bench:
        running, waiting = bench.submit("The river", max_tokens=400), bench.submit("June")
        wait_until(lambda: running.output)
        stopping = threading.Thread(target=bench.engine.stop, daemon=True)
        stopping.start()
        stopping.join(9)  # it does not wait for the step
        assert not stopping.is_alive()
        assert (running.end, waiting.end) == ("cancelled", "cancelled")
        with pytest.raises(EngineStoppedError):
            bench.submit("noon")


@on_devices
def test_a_seed_repeats_its_tokens_and_another_does_not(device: str) -> None:
    with engine(device=device) as bench:
        runs = [bench.submit("The", max_tokens=30, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
        for generation in runs:
            bench.finish(generation)
    assert runs[0].output == runs[1].output != runs[2].output


@on_devices
def test_a_tiny_top_p_is_greedy(device: str) -> None:
    with engine(device=device) as bench:
        greedy, narrow = bench.submit("The"), bench.submit("The", temperature=1.0, top_p=1e-6, seed=3)
        assert bench.finish(greedy) == bench.finish(narrow)


@on_devices
def test_the_tiny_model_goes_on_until_max_tokens(device: str) -> None:
    with engine(device=device) as bench:
        generation = bench.submit("The", max_tokens=300, temperature=1.0, seed=5)
        assert bench.finish(generation)
        assert (len(generation.output), generation.finish) == (300, "length")
