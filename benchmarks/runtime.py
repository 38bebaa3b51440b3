"""Tokens per CPU-second of the runtime on one thread: prefill of a prompt, decode at several batch sizes.

python benchmarks/runtime.py [smollm2 | PATH]
"""

import resource
import sys
import time
from collections.abc import Callable

import torch
from machine import describe

from tailbudget.gpu_runtime.attention import KVCache
from tailbudget.gpu_runtime.kv import Pages
from tailbudget.gpu_runtime.model import Llama, Segment
from tailbudget.gpu_runtime.models import resolve
from tailbudget.gpu_runtime.weights import open_model
from tailbudget.instrument.errors import UserError

PROMPT_TOKENS, CHUNK, STEPS, ROUNDS = 300, 128, 24, 3
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
    layer = model.layers[0]
    rows = {"qkv": layer.query_key_value, "output": layer.output, "gate_up": layer.gate_up, "down": layer.down}
    print("4-bit up to rows   ", ", ".join(f"{name} {product.few_rows}" for name, product in rows.items()))
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
