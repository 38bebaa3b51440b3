"""Load tools of others, unmodified, against our runtime: every request is answered, and their figures are its own."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tailbudget.gpu_runtime.tiny import TEMPLATE
from tailbudget.gpu_runtime.tokenizer import TextTokenizer
from tailbudget.gpu_runtime.weights import open_model
from tests.runtime_support import Receiver, receiver, server, tiny_path
from tests.support import wait_until

pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]
FOLDER = Path(os.environ.get("TAILBUDGET_LOAD_TOOLS", Path(__file__).parents[1] / ".venv-load" / "bin"))
REQUESTS, TOKENS, STEP_DELAY_MS = 8, 20, 20


@dataclass(frozen=True, order=True)
class Seen:
    """One answered request as a tool reports it, or the engine's span."""

    prompt_tokens: int
    answer_tokens: int
    first_token_ms: float
    token_ms: float


@pytest.fixture(scope="module")
def otlp() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture(scope="module")
def url(otlp: Receiver) -> Iterator[str]:
    with server(otlp.endpoint, step_delay_ms=STEP_DELAY_MS) as (base, _):
        yield base


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model's tokenizer as transformers reads it: tools make prompts of a wanted length with it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    TextTokenizer(open_model(tiny_path()).vocabulary)._encoder.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 512}))
    return str(folder)


def _run(tool: str, *arguments: str, folder: Path) -> None:
    program = shutil.which(tool, path=str(FOLDER))
    if program is None:
        pytest.skip(f"{tool} is not in {FOLDER}: make test-libraries installs it")
    environment = {**os.environ, "OTEL_SDK_DISABLED": "true"}
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def guidellm(url: str, path: str, tokenizer: str, folder: Path) -> list[Seen]:
    _run(
        "guidellm", "run", "--backend", f"kind=openai_http,target={url},model=tiny,request_format=/v1/{path}",
        "--profile", "kind=constant,rate=4", "--constraint", f"kind=max_requests,count={REQUESTS}",
        "--tokenizer", f"kind=hf_auto,model={tokenizer}", "--disable-console",
        "--data", f"kind=synthetic_text,prompt_tokens=50,output_tokens={TOKENS}",
        "--output", f"kind=json,path={folder / 'report.json'}", folder=folder,
    )  # fmt: skip
    requests = json.loads((folder / "report.json").read_text())["benchmarks"][0]["requests"]
    assert not requests["errored"]
    assert not requests["incomplete"]
    return [
        Seen(
            each["prompt_tokens"], each["output_tokens"], each["time_to_first_token_ms"], each["inter_token_latency_ms"]
        )
        for each in requests["successful"]
    ]


def aiperf(url: str, path: str, tokenizer: str, folder: Path) -> list[Seen]:
    chat = path == "chat/completions"
    _run(
        "aiperf", "profile", "-m", "tiny", "-u", url, "--endpoint-type", "chat" if chat else "completions",
        "--streaming", "--tokenizer", tokenizer, "--request-count", str(REQUESTS), "--concurrency", "2",
        "--isl", "50", "--osl", str(TOKENS), "--use-server-token-count", *(["--per-chunk-usage"] if chat else []),
        "--extra-inputs", "ignore_eos:true", "--extra-inputs", f"min_tokens:{TOKENS}", "--ui", "simple",
        "--wait-for-model-timeout", "30", "--wait-for-model-mode", "models",
        "--output-artifact-dir", str(folder / "out"), folder=folder,
    )  # fmt: skip
    found = []
    for line in (folder / "out" / "profile_export.jsonl").read_text().splitlines():
        metrics = {name: each["value"] for name, each in json.loads(line)["metrics"].items()}
        found.append(
            Seen(
                metrics["usage_prompt_tokens"], metrics["output_sequence_length"], metrics["time_to_first_token"],
                metrics["inter_token_latency"],
            )
        )  # fmt: skip
    # It reads /metrics meanwhile, and stores what it understood.
    scraped = (folder / "out" / "server_metrics_export.csv").read_text()
    assert "tailbudget:inter_token_latency_seconds" in scraped
    return found


def servebench(url: str, path: str, tokenizer: str, folder: Path) -> list[Seen]:
    del tokenizer  # it takes the server's counts
    _run(
        "servebench", "run", "--url", f"{url}/v1", "--model", "tiny", "--rate", "4", "--num-requests", str(REQUESTS),
        "--input-len", "50", "--output-len", str(TOKENS), "--warmup", "0", "--seed", "1",
        "--endpoint", "chat" if path == "chat/completions" else "completions", "--out", str(folder / "run.json"),
        folder=folder,
    )  # fmt: skip
    requests = json.loads((folder / "run.json").read_text())["levels"][0]["requests"]
    assert [each["error"] for each in requests] == [None] * REQUESTS
    return [
        Seen(
            each["prompt_tokens"], each["output_tokens"], 1e3 * each["ttft"],
            1e3 * (each["chunk_times"][-1] - each["chunk_times"][0]) / (each["output_tokens"] - 1),
        )
        for each in requests
    ]  # fmt: skip


def _engine(otlp: Receiver, before: int) -> list[Seen]:
    """Return what the engine's own spans say, once all of them have come."""
    wait_until(lambda: len(otlp.spans) >= before + REQUESTS, what="the spans of the requests")
    found = []
    for span in otlp.spans[before:]:
        said = {each.key: each.value for each in span.attributes}
        tokens = said["gen_ai.usage.output_tokens"].int_value
        found.append(
            Seen(
                said["gen_ai.usage.input_tokens"].int_value, tokens,
                1e3 * said["gen_ai.latency.time_to_first_token"].double_value,
                1e3 * said["gen_ai.latency.time_in_model_decode"].double_value / (tokens - 1),
            )
        )  # fmt: skip
    return found


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
@pytest.mark.parametrize("tool", [guidellm, aiperf, servebench], ids=lambda tool: tool.__name__)
def test_a_load_tool_reports_what_the_engine_did(
    otlp: Receiver, url: str, tokenizer: str, tmp_path: Path, tool: Callable[..., list[Seen]], path: str
) -> None:
    before = len(otlp.spans)
    seen = tool(url, path, tokenizer, tmp_path)
    did = _engine(otlp, before)
    assert sorted((each.prompt_tokens, each.answer_tokens) for each in seen) == sorted(
        (each.prompt_tokens, each.answer_tokens) for each in did
    )
    assert {each.answer_tokens for each in seen} == {TOKENS}
    # A client sees no token before the engine has it, and gaps as long as the steps that are slowed down.
    firsts = (sorted(each.first_token_ms for each in some) for some in (seen, did))
    assert all(client >= engine for client, engine in zip(*firsts, strict=True))
    assert all(each.token_ms > STEP_DELAY_MS for each in did)
    assert all(each.token_ms > STEP_DELAY_MS / 2 for each in seen)
