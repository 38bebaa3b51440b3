"""Tokens per CPU-second of the runtime on one thread: prefill of a prompt, decode at several batch sizes.

python benchmarks/runtime.py [smollm2 | PATH]
"""

import resource
import sys
import time
from collections.abc import Callable

import torch
from machine import describe

from tailbudget.gpu_runtime.kv import KVCache
from tailbudget.gpu_runtime.model import Llama, Segment
from tailbudget.gpu_runtime.models import resolve
from tailbudget.gpu_runtime.weights import ModelFile
from tailbudget.instrument.errors import UserError

PROMPT_TOKENS, CHUNK, STEPS, ROUNDS = 300, 128, 24, 3
BATCHES = (1, 2, 4, 8, 16)


def _prefill(model: Llama, cache: KVCache, slot: int) -> None:
    tokens = [(31 * index) % 40_000 % model.shape.vocabulary for index in range(PROMPT_TOKENS)]
    for start in range(0, PROMPT_TOKENS, CHUNK):
        model.forward([Segment(slot, start, tokens[start : start + CHUNK])], cache, [0])


def _decode(model: Llama, cache: KVCache, batch: int) -> None:
    for step in range(STEPS):
        segments = [Segment(slot, PROMPT_TOKENS + step, [7]) for slot in range(batch)]
        model.forward(segments, cache, range(batch)).argmax(-1).tolist()


def main() -> None:
    """Print one figure a line."""
    print(describe())
    torch.set_num_threads(1)
    try:
        path = resolve(sys.argv[1] if len(sys.argv) > 1 else "smollm2")
    except UserError as error:
        sys.exit(str(error))
    start = time.process_time()
    model = Llama(ModelFile(path), dtype=torch.bfloat16)
    print(f"load               {time.process_time() - start:8.2f} CPU-s")
    cache = model.cache(slots=max(BATCHES), context=512)
    for slot in range(max(BATCHES)):
        _prefill(model, cache, slot)
    spent = min(_cpu_s(_prefill, model, cache, 0) for _ in range(ROUNDS))
    print(f"prefill {PROMPT_TOKENS:>4}       {PROMPT_TOKENS / spent:8.0f} tokens per CPU-s")
    for batch in BATCHES:
        spent = min(_cpu_s(_decode, model, cache, batch) for _ in range(ROUNDS))
        rate, step_ms = batch * STEPS / spent, spent / STEPS * 1e3
        print(f"decode, batch {batch:>2}   {rate:8.0f} tokens per CPU-s, {step_ms:.1f} ms a step")
    layer = model.layers[0]
    rows = {"qkv": layer.query_key_value, "output": layer.output, "gate_up": layer.gate_up, "down": layer.down}
    print("4-bit up to rows   ", ", ".join(f"{name} {product.few_rows}" for name, product in rows.items()))
    print(f"memory, peak       {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.0f} MiB")


def _cpu_s(work: Callable[[Llama, KVCache, int], None], model: Llama, cache: KVCache, number: int) -> float:
    start = time.process_time()
    work(model, cache, number)
    return time.process_time() - start


if __name__ == "__main__":
    main()
