"""Tokens per CPU-second of the runtime on one thread: prefill of a prompt, decode at several batch sizes.

python benchmarks/runtime.py [smollm2 | PATH]

Where there is an NVIDIA GPU: its tokens a second too, and what share of its memory's bandwidth decoding takes.
"""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe

from tailbudget.gpu_runtime.attention import KVCache
from tailbudget.gpu_runtime.decode import MATRICES
from tailbudget.gpu_runtime.kv import PAGE_TOKENS, Pages
from tailbudget.gpu_runtime.model import Llama, Segment
from tailbudget.gpu_runtime.models import resolve
from tailbudget.gpu_runtime.runner import Runner
from tailbudget.gpu_runtime.weights import open_model
from tailbudget.instrument.errors import UserError

PROMPT_TOKENS, CHUNK, STEPS, ROUNDS = 300, 128, 24, 3
GPU_STEPS = 200
BATCHES = (1, 2, 4, 8, 16, 32)
Tables = list[list[int]]
Phase = Callable[[Llama, KVCache, Tables, int], None]


def _tables(pages: Pages) -> list[list[int]]:
    """Return the pages of the largest batch, allotted as the scheduler does: the prompts first, then token by token."""
    tables: list[list[int]] = [[] for _ in range(max(BATCHES))]
    for count in (pages.needed(PROMPT_TOKENS), pages.needed(PROMPT_TOKENS + STEPS) - pages.needed(PROMPT_TOKENS)):
        for table in tables:
            pages.extend(table, count)
    return tables


def _prefill(model: Llama, cache: KVCache, tables: Tables, slot: int) -> None:
    tokens = [(31 * index) % 40_000 % model.shape.vocabulary for index in range(PROMPT_TOKENS)]
    for start in range(0, PROMPT_TOKENS, CHUNK):
        model.forward([Segment(tables[slot], start, tokens[start : start + CHUNK], 1)], cache)


def _decode(model: Llama, cache: KVCache, tables: Tables, batch: int) -> None:
    for step in range(STEPS):
        segments = [Segment(tables[slot], PROMPT_TOKENS + step, [7], 1) for slot in range(batch)]
        model.forward(segments, cache).argmax(-1).tolist()


def _decoded_s(model: Llama, batch: int) -> float:
    """Return the seconds of a step that decodes `batch` sequences behind a prompt, through graphs where those are."""
    size = PAGE_TOKENS[model.device.type]
    each = -(-(PROMPT_TOKENS + GPU_STEPS) // size)
    runner = Runner(model, pages=batch * each, page_tokens=size, most=batch, longest=each * size)
    tables = [range(slot * each, (slot + 1) * each) for slot in range(batch)]
    for table in tables:
        runner.forward([Segment(table, 0, [7] * PROMPT_TOKENS, 1)])
    start_s = 0.0
    for step in range(GPU_STEPS):
        if step == GPU_STEPS // 2:  # the first half warms up
            start_s = time.perf_counter()
        segments = [Segment(table, PROMPT_TOKENS + step, [7], 1) for table in tables]
        _ = runner.forward(segments).likeliest
    return (time.perf_counter() - start_s) / (GPU_STEPS - GPU_STEPS // 2)


def _read_bytes(model: Llama, batch: int) -> int:
    """Return what a step has to read: every matrix once, and the keys and values of each sequence."""
    shape, layers = model.shape, model.layers
    weights = [getattr(layer, name).weight for layer in layers for name in MATRICES]
    numbers = sum(weight.numel() for weight in weights) + shape.vocabulary * shape.hidden
    cached = 2 * shape.layers * shape.kv_heads * shape.head_dim * PROMPT_TOKENS * batch
    return int((numbers + cached) * model.dtype.itemsize)


def _print_gpu(path: Path) -> None:
    device = torch.device("cuda")
    found = torch.cuda.get_device_properties(device)
    # Memory moves data twice a clock; the clock is in kHz, the bus in bits.
    most_bytes_s = 2e3 * found.memory_clock_rate * found.memory_bus_width / 8
    model = Llama(open_model(path), form="auto", device=device)
    print(f"{found.name}, {most_bytes_s / 1e9:.0f} GB/s")
    for batch in (1, 32):
        step_s = _decoded_s(model, batch)
        share = _read_bytes(model, batch) / step_s / most_bytes_s
        print(f"GPU, batch {batch:>2}      {batch / step_s:8.0f} tokens a second, {share:.1%} of the bandwidth")


def main() -> None:
    """Print one figure a line."""
    print(describe())
    torch.set_num_threads(1)
    try:
        path = resolve(sys.argv[1] if len(sys.argv) > 1 else "smollm2")
    except UserError as error:
        sys.exit(str(error))
    start = time.process_time()
    model = Llama(open_model(path), form="auto")
    print(f"load               {time.process_time() - start:8.2f} CPU-s")
    pages = Pages(max(BATCHES) * 512 // 16)
    cache = model.cache(pages=pages.count, size=pages.size)
    tables = _tables(pages)
    for slot in range(max(BATCHES)):
        _prefill(model, cache, tables, slot)
    spent = min(_cpu_s(_prefill, model, cache, tables, 0) for _ in range(ROUNDS))
    print(f"prefill {PROMPT_TOKENS:>4}       {PROMPT_TOKENS / spent:8.0f} tokens per CPU-s")
    for batch in BATCHES:
        _print_decode(f"decode, batch {batch:>2}", model, cache, tables, batch)
    scattered = [table[::-1] for table in tables]
    _print_decode("same, pages apart", model, cache, scattered, max(BATCHES))
    rows = {name: getattr(model.layers[0], name).few_rows for name in MATRICES}
    raced = ", ".join(f"{name} {count}" for name, count in rows.items())
    print(
        "few rows           ", f"compiled up to {model.few_rows}" if model.compiled else f"4-bit kernels up to {raced}"
    )
    if torch.cuda.is_available():
        _print_gpu(path)
    print(f"memory, peak       {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.0f} MiB")


def _print_decode(name: str, model: Llama, cache: KVCache, tables: Tables, batch: int) -> None:
    spent = min(_cpu_s(_decode, model, cache, tables, batch) for _ in range(ROUNDS))
    rate, step_ms = batch * STEPS / spent, spent / STEPS * 1e3
    print(f"{name:18} {rate:8.0f} tokens per CPU-s, {step_ms:.1f} ms a step")


def _cpu_s(work: Phase, model: Llama, cache: KVCache, tables: Tables, number: int) -> float:
    start = time.process_time()
    work(model, cache, tables, number)
    return time.process_time() - start


if __name__ == "__main__":
    main()
