"""Tokens per CPU-second of two servers on the same file in the same run, one thread each: ours and llama.cpp's.

python -m venv .venv-llamacpp && .venv-llamacpp/bin/pip install --no-deps xllamacpp
python benchmarks/runtime_servers.py [.venv-llamacpp/bin/python] [smollm2 | PATH]

Prints a table as docs/runtime.md has it. Without xllamacpp it says so and ends.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
from machine import describe

from tailbudget.gpu_runtime.models import resolve
from tailbudget.instrument.errors import UserError

LLAMA_CPP_PYTHON = Path(__file__).resolve().parents[1] / ".venv-llamacpp" / "bin" / "python"
#: Prompts are long where they are measured and short where answers are.
LONG_TOKENS, SHORT_TOKENS, ANSWER_TOKENS = (256, 1536), 32, 64
BATCHES = (1, 4, 16, 32)
ROUNDS = 2
TICKS = os.sysconf("SC_CLK_TCK")
OURS = """
import sys
from tailbudget.gpu_runtime import RuntimeSettings, serve
serve(RuntimeSettings(sys.argv[1], port=int(sys.argv[2]), served_name="m", max_running=32, max_context=2048,
                      prefix_cache=False, device="cpu"))
"""
#: Every slot gets 2,048 tokens of the context; batching, flash attention and repacking are as the package sets them.
LLAMA_CPP = """
import sys, time
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.port, params.n_parallel, params.n_ctx = int(sys.argv[2]), 32, 32 * 2048
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.cache_prompt = False
params.cache_ram_mib = 0
server = xllamacpp.Server(params)
time.sleep(3600)
"""


@dataclass
class Server:
    """A server in a process of its own, and the CPU time that it took."""

    name: str
    python: str
    code: str
    port: int

    def start(self, path: Path) -> None:
        """Start it and wait until it answers."""
        environment = {**os.environ, "OTEL_SDK_DISABLED": "true", "OMP_NUM_THREADS": "1"}
        command = [self.python, "-c", self.code, str(path), str(self.port)]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not self._healthy():
            if self._process.poll() is not None:
                sys.exit(f"{self.name} ended at its start: run its code by hand to see why")
            time.sleep(0.2)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def cpu_s(self) -> float:
        """Return the CPU seconds of the process so far, user and system."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def ask(self, number: int, *, prompt_tokens: int, tokens: int) -> None:
        """Get one completion of a prompt that no other request begins like."""
        prompt = [(31 * index + 977 * number) % 40_000 + 10 for index in range(prompt_tokens)]
        body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        answer = httpx.post(f"http://127.0.0.1:{self.port}/v1/completions", json=body, timeout=600)
        answer.raise_for_status()
        found = answer.json()["usage"]["completion_tokens"]
        if found != tokens:
            raise RuntimeError(f"{self.name} gave {found} tokens instead of {tokens}")

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _cpu_s(server: Server, size: int, *, prompt_tokens: int, tokens: int) -> float:
    """Return the CPU seconds of `size` requests at once."""
    start = server.cpu_s()
    with ThreadPoolExecutor(size) as pool:
        list(pool.map(lambda number: server.ask(number, prompt_tokens=prompt_tokens, tokens=tokens), range(size)))
    return server.cpu_s() - start


def _figures(server: Server) -> Iterator[tuple[str, float]]:
    """Return each figure with its name: prompts alone, and answers less what their prompts cost."""
    for size in LONG_TOKENS:
        long_s = min(_cpu_s(server, 1, prompt_tokens=size, tokens=1) for _ in range(ROUNDS))
        yield f"prefill, {size:,} tokens", size / long_s
    for size in BATCHES:
        prompts_s, whole_s = (
            min(_cpu_s(server, size, prompt_tokens=SHORT_TOKENS, tokens=tokens) for _ in range(ROUNDS))
            for tokens in (1, ANSWER_TOKENS)
        )
        yield f"decode, batch {size}", size * (ANSWER_TOKENS - 1) / (whole_s - prompts_s)


def main() -> None:
    """Print one row a figure: ours, theirs, and how many times as much ours is."""
    print(describe())
    python = Path(sys.argv[1]) if len(sys.argv) > 1 else LLAMA_CPP_PYTHON
    if not python.exists():
        print(f"llama.cpp: not installed. {(__doc__ or '').splitlines()[2]}")
        return
    try:
        path = resolve(sys.argv[2] if len(sys.argv) > 2 else "smollm2")
    except UserError as error:
        sys.exit(str(error))
    version = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    print(next((line for line in version.splitlines() if line.startswith("xllamacpp")), "no xllamacpp there"))
    servers = [Server("tailbudget", sys.executable, OURS, 18431), Server("llama.cpp", str(python), LLAMA_CPP, 18432)]
    for server in servers:
        server.start(path)
    print("\n| tokens per CPU-second | tailbudget | llama.cpp | times |\n| --- | --- | --- | --- |")
    try:
        for (name, ours), (_, theirs) in zip(*map(_figures, servers), strict=True):
            print(f"| {name} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} |", flush=True)
    finally:
        for server in servers:
            server.stop()


if __name__ == "__main__":
    main()
