"""The JSON bodies of answers: whole, in chunks, with usage and log probabilities as OpenAI's clients read them."""

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from .protocol import JSON, Asked
from .sampling import Chosen
from .scheduler import Generation
from .tokenizer import TextTokenizer


class Bodies:
    """The JSON bodies of one answer, whole or in chunks."""

    def __init__(self, generation: Generation, asked: Asked, *, created_s: int, tokenizer: TextTokenizer) -> None:
        self._generation = generation
        self._asked = asked
        self._tokenizer = tokenizer
        self._reported = 0
        self._head: JSON = {"id": generation.id, "created": created_s, "model": asked.model}

    def whole(self, text: str, chosen: Sequence[Chosen]) -> JSON:
        """Return the body of an answer that is not streamed."""
        choice: JSON = {"index": 0, "logprobs": self._logprobs(chosen), "finish_reason": self._generation.finish}
        choice |= {"message": {"role": "assistant", "content": text}} if self._asked.chat else {"text": text}
        kind = "chat.completion" if self._asked.chat else "text_completion"
        return {**self._head, "object": kind, "choices": [choice], "usage": self.usage()}

    def role(self) -> bytes:
        """Return the chunk that opens a streamed chat: a role and no token."""
        return self._event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])

    def chunk(self, text: str, *, chosen: Sequence[Chosen] = (), finish: str | None = None) -> bytes:
        """Return the chunk of a piece of text, or of the end with its reason."""
        choice: JSON = {"index": 0, "logprobs": self._logprobs(chosen) if chosen else None, "finish_reason": finish}
        choice |= {"delta": {"content": text} if text else {}} if self._asked.chat else {"text": text}
        return self._event([choice])

    def closing(self) -> bytes:
        """Return what follows the last chunk: the usage, if it was asked for, and the end mark."""
        usage = self._event([], self.usage()) if self._asked.include_usage else b""
        return usage + b"data: [DONE]\n\n"

    def usage(self) -> JSON:
        """Return the token counts; special tokens that the model generated count."""
        prompt, answer = len(self._generation.prompt), len(self._generation.output)
        counts = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        return {**counts, "prompt_tokens_details": {"cached_tokens": self._generation.cached}}

    def _logprobs(self, chosen: Sequence[Chosen]) -> JSON | None:
        if self._generation.params.logprobs is None:
            return None
        if self._asked.chat:
            return {"content": [self._entry(each) for each in chosen], "refusal": None}
        texts = [self._written(each.token) for each in chosen]
        starts = list(accumulate(map(len, texts), initial=self._reported))
        self._reported = starts.pop()
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

    def _event(self, choices: list[JSON], usage: JSON | None = None) -> bytes:
        kind = "chat.completion.chunk" if self._asked.chat else "text_completion"
        body = {**self._head, "object": kind, "choices": choices}
        if self._asked.include_usage:
            body["usage"] = usage
        return event(body)


def event(body: Mapping[str, Any]) -> bytes:
    """Return a body as one server-sent event."""
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
