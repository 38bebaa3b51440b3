"""What each form of the weights costs in quality: perplexity of a fixed text, and answers that differ from float32's.

python benchmarks/runtime_formats.py [smollm2 | PATH]
"""

import sys
import time
from collections.abc import Iterator, Sequence

import torch
from machine import describe

from tailbudget.gpu_runtime.kernels import FORMS
from tailbudget.gpu_runtime.model import Llama, Segment
from tailbudget.gpu_runtime.models import resolve
from tailbudget.gpu_runtime.settings import Form
from tailbudget.gpu_runtime.tokenizer import TextTokenizer
from tailbudget.gpu_runtime.weights import open_model
from tailbudget.instrument.errors import UserError

PAGES, BATCH, ANSWER_TOKENS = 16, 20, 32
TEXT = """The harbour was built in 1861, when the river was still deep enough for the grain ships that came up from the
coast. Its first master, a retired pilot named Edwin Marsh, kept a diary in which he wrote down the height of the water
every morning, the names of the vessels, and what they carried. From these pages we know that wheat left the town in
autumn and that coal, timber and machines came back in spring. When the railway reached the valley in 1874 the ships
became fewer, and by the end of the century only two warehouses were in use. One of them burned down in the dry summer
of 1911; the other was bought by a company that made furniture, and later bicycles. During the war its long halls
served as a hospital, and afterwards nobody knew what to do with them. Children played between the walls, swallows
nested under the roof, and grass grew between the rails. It was a teacher of the local school who first proposed to turn
the building into a museum. She collected photographs, tools and letters, asked old people to tell what they remembered,
and wrote to the ministry every year until an answer came. The museum opened on a rainy day in May. More than four
hundred visitors stood in line, and the mayor, who had once voted against the plan, gave a short speech in which he
admitted that he had been wrong. Today a small exhibition shows how the water was measured, how grain was weighed, and
how a city changes when the reason for which it was founded disappears."""
SUBJECTS = (
    "a river", "the moon", "bread", "a clock", "honey bees", "the Roman Empire", "photosynthesis", "a bicycle", "glass",
    "volcanoes", "the violin", "rain", "a library", "salt", "the number seven", "whales", "a bridge", "coffee",
    "electricity", "the alphabet",
)  # fmt: skip
QUESTIONS = (
    "What is {}?", "Write one sentence about {}.", "Why do people care about {}?", "Explain {} to a child.",
    "Name three facts about {}.", "What would the world be without {}?", "Write a short poem about {}.",
    "How would you describe {} to a stranger?", "What is the history of {}?", "Ask me a question about {}.",
)  # fmt: skip


def _perplexity(model: Llama, tokens: Sequence[int], *, rows: int) -> float:
    """Return e^(mean loss), `rows` tokens at a time: one takes the kernels for few rows, many the dense product."""
    cache, losses, table = model.cache(pages=64, size=16), [], range(64)
    for start in range(0, len(tokens) - 1, rows):
        part = tokens[start : start + rows]
        logits = model.forward([Segment(table, start, part, len(part))], cache)
        wanted = torch.tensor(tokens[start + 1 : start + 1 + len(part)])
        losses.append(-logits[: len(wanted)].log_softmax(-1).gather(1, wanted[:, None]))
    return float(torch.cat(losses).mean().exp())


def _answers(model: Llama, prompts: Sequence[list[int]]) -> Iterator[list[int]]:
    """Yield the greedy answer to each prompt, computed in batches."""
    for first in range(0, len(prompts), BATCH):
        part = prompts[first : first + BATCH]
        cache = model.cache(pages=PAGES * len(part), size=16)
        tables = [range(PAGES * at, PAGES * (at + 1)) for at in range(len(part))]
        lengths = [len(prompt) for prompt in part]
        logits = model.forward([Segment(*each, 1) for each in zip(tables, [0] * len(part), part, strict=True)], cache)
        chosen = [logits.argmax(-1).tolist()]
        for step in range(ANSWER_TOKENS - 1):
            segments = [Segment(tables[at], lengths[at] + step, [token], 1) for at, token in enumerate(chosen[-1])]
            chosen.append(model.forward(segments, cache).argmax(-1).tolist())
        yield from ([tokens[at] for tokens in chosen] for at in range(len(part)))


def _first_difference(ours: list[int], theirs: list[int]) -> int | None:
    return next((at for at, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), None)


def main() -> None:
    """Print one line a form."""
    print(describe())
    torch.set_num_threads(1)
    try:
        file = open_model(resolve(sys.argv[1] if len(sys.argv) > 1 else "smollm2"))
    except UserError as error:
        sys.exit(str(error))
    tokenizer = TextTokenizer(file.vocabulary)
    text = tokenizer.encode(" ".join(TEXT.split()))
    chats = [question.format(subject) for subject in SUBJECTS for question in QUESTIONS]
    prompts = [tokenizer.encode_chat([{"role": "user", "content": chat}]) for chat in chats]
    print(f"perplexity of {len(text)} tokens; greedy answers of {ANSWER_TOKENS} tokens to {len(prompts)} prompts")
    print(f"{'dtype':10}{'many rows':>10}{'one row':>9}{'differ':>8}{'a token':>9}{'CPU-s':>7}")
    exact: list[list[int]] = []
    forms: list[Form] = ["float32", *(form for form in FORMS["cpu"] if form != "float32")]
    for form in forms:
        start = time.process_time()
        model = Llama(file, form=form)
        perplexities = [_perplexity(model, text, rows=rows) for rows in (128, 1)]
        answers = list(_answers(model, prompts))
        exact = exact or answers
        at = [_first_difference(ours, theirs) for ours, theirs in zip(answers, exact, strict=True)]
        differ = [place for place in at if place is not None]
        alike = sum(ANSWER_TOKENS if place is None else place for place in at)
        spent = time.process_time() - start
        share, rate = len(differ) / len(at), len(differ) / (alike + len(differ))
        print(f"{form:10}{perplexities[0]:10.3f}{perplexities[1]:9.3f}{share:8.1%}{rate:9.2%}{spent:7.0f}", flush=True)


if __name__ == "__main__":
    main()
