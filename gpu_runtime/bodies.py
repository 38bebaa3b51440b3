"""The JSON bodies of answers: whole, in chunks, with usage and log probabilities as OpenAI's clients read them."""

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from .protocol import JSON, Asked
from .reports import Delta
from .sampling import Chosen
from .scheduler import Generation
from .tokenizer import TextTokenizer


class Bodies:
    """The JSON bodies of the answers to one request, whole or in chunks."""

    def __init__(
        self, answers: Sequence[Generation], asked: Asked, *, created_s: int, tokenizer: TextTokenizer
    ) -> None:
        self._answers = answers
        self._asked = asked
        self._tokenizer = tokenizer
        self._reported = [0] * len(answers)
        self._head: JSON = {"id": answers[0].id, "created": created_s, "model": asked.model}

    def whole(self, texts: Sequence[str], chosen: Sequence[Sequence[Chosen]]) -> JSON:
        """Return the body of answers that are not streamed."""
        choices: list[JSON] = []
        for index, text in enumerate(texts):
            logprobs, finish = self._logprobs(chosen[index], index), self._answers[index].finish
            choice: JSON = {"index": index, "logprobs": logprobs, "finish_reason": finish}
            choice |= {"message": {"role": "assistant", "content": text}} if self._asked.chat else {"text": text}
            choices.append(choice)
        kind = "chat.completion" if self._asked.chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": self.usage()}

    def role(self) -> bytes:
        """Return the chunks that open a streamed chat: a role and no token."""
        delta = {"role": "assistant", "content": ""}
        every = range(len(self._answers))
        return b"".join(self._event([{"index": index, "delta": delta, "finish_reason": None}], 0) for index in every)

    def chunk(self, delta: Delta) -> bytes:
        """Return the chunk of a piece of an answer, the last one with the reason of its end.

        The last piece and the reason share a chunk, as vLLM's do: clients that take each chunk for a token count right.
        """
        index = self._answers.index(delta.generation)
        logprobs = self._logprobs(delta.chosen, index) if delta.chosen else None
        finish = delta.generation.finish if delta.done else None
        choice: JSON = {"index": index, "logprobs": logprobs, "finish_reason": finish}
        choice |= {"delta": {"content": delta.text}} if self._asked.chat else {"text": delta.text}
        return self._event([choice], delta.tokens)

    def closing(self) -> bytes:
        """Return what follows the last chunk: the usage, if it was asked for, and the end mark."""
        usage = self._encoded([], {"usage": self.usage()}) if self._asked.include_usage else b""
        return usage + b"data: [DONE]\n\n"

    def usage(self) -> JSON:
        """Return the token counts; the prompt counts once, and special tokens that the model generated do."""
        return self._counted(sum(len(each.output) for each in self._answers))

    def _counted(self, answer: int) -> JSON:
        first = self._answers[0]
        prompt = len(first.prompt)
        counts = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        return {**counts, "prompt_tokens_details": {"cached_tokens": first.cached}}

    def _logprobs(self, chosen: Sequence[Chosen], index: int) -> JSON | None:
        if self._answers[0].params.logprobs is None:
            return None
        if self._asked.chat:
            return {"content": [self._entry(each) for each in chosen], "refusal": None}
        texts = [self._written(each.token) for each in chosen]
        starts = list(accumulate(map(len, texts), initial=self._reported[index]))
        self._reported[index] = starts.pop()
        return {
            "tokens": texts,
            "token_logprobs": [each.logprob for each in chosen],
            "top_logprobs": [{self._written(token): value for token, value in each.likeliest} for each in chosen],
            "text_offset": starts,
        }

    def _entry(self, chosen: Chosen) -> JSON:
        likeliest = [self._one(token, logprob) for token, logprob in chosen.likeliest]
        return {**self._one(chosen.token, chosen.logprob), "top_logprobs": likeliest}

    def _one(self, token: int, logprob: float) -> JSON:
        return {"token": self._written(token), "logprob": logprob, "bytes": list(self._tokenizer.bytes_of(token))}

    def _written(self, token: int) -> str:
        return self._tokenizer.bytes_of(token).decode(errors="replace")

    def _event(self, choices: list[JSON], tokens: int) -> bytes:
        """Return a chunk; where usage was asked for it is said in each, or null before the end, as OpenAI does."""
        usage = self._counted(tokens) if self._asked.continuous_usage else None
        return self._encoded(choices, {"usage": usage} if self._asked.include_usage else {})

    def _encoded(self, choices: list[JSON], more: JSON) -> bytes:
        kind = "chat.completion.chunk" if self._asked.chat else "text_completion"
        return event({**self._head, "object": kind, "choices": choices, **more})


def event(body: Mapping[str, Any]) -> bytes:
    """Return a body as one server-sent event."""
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
