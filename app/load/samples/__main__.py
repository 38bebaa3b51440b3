"""Cuts the samples from the published traces below a folder."""

import csv
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).parent
#: Azure: ten minutes, after the first rows, which lie far apart.
AZURE_FROM_S, AZURE_S = 40, 600
MOONCAKE_S = 120
#: ShareGPT: one row in so many.
EVERY = 30


def azure(file: Path) -> Iterator[list[object]]:
    """Yield offset_s, context_tokens, generated_tokens of ten minutes."""
    with file.open(encoding="utf-8") as rows:
        begin = None
        for row in csv.DictReader(rows):
            at = datetime.fromisoformat(row["TIMESTAMP"][:26])
            begin = begin or at
            offset_s = (at - begin).total_seconds() - AZURE_FROM_S
            if 0 <= offset_s < AZURE_S:
                yield [round(offset_s, 2), row["ContextTokens"], row["GeneratedTokens"]]


def sharegpt(file: Path) -> Iterator[list[object]]:
    """Yield context_tokens, generated_tokens of one conversation in EVERY."""
    with file.open(encoding="utf-8") as rows:
        for at, row in enumerate(csv.DictReader(rows)):
            if at % EVERY == 0:
                yield [row["num_prefill_tokens"], row["num_decode_tokens"]]


def write(name: str, header: list[str], rows: Iterator[list[object]]) -> None:
    """Write one sample."""
    with (HERE / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def main(folder: Path) -> None:
    """Write all samples beside this script."""
    timed = ["offset_s", "context_tokens", "generated_tokens"]
    for name, kind in (("conversation", "conv"), ("code", "code")):
        trace = folder / "azure_llm_2023" / f"AzureLLMInferenceTrace_{kind}.csv"
        write(f"azure_{name}.csv", timed, azure(trace))
    lengths = folder / "etalon" / "sharegpt_8k_filtered_stats_llama2_tokenizer.csv"
    write("sharegpt.csv", timed[1:], sharegpt(lengths))
    trace = folder / "mooncake_fast25" / "conversation_trace.jsonl"
    lines = trace.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["timestamp"] < MOONCAKE_S * 1000]
    (HERE / "mooncake.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
