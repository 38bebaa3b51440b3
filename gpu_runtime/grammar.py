"""Holds an answer to a JSON schema: which tokens may come next, by llguidance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from .tokenizer import TextTokenizer

#: Between the parts of an object; without an end to it small models write spaces for ever.
WHITESPACE = r"[ \t\n]{0,20}"


class GrammarError(ValueError):
    """A schema that cannot be held to; `str()` says which of its keywords, or what is wrong with it."""


class Grammars:
    """Compiles schemas for one tokenizer. Thread-safe."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        ends = sorted(tokenizer.end_ids)
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer)), eos_token=ends)

    def compile(self, schema: Mapping[str, Any]) -> "Grammar":
        """Return what holds answers to a JSON schema; GrammarError for one that is wrong or not supported."""
        source = LLMatcher.grammar_from_json_schema(dict(schema), overrides={"whitespace_pattern": WHITESPACE})
        matcher = LLMatcher(self._tokenizer, source, log_level=0)
        if matcher.is_error():
            raise GrammarError(" ".join(matcher.get_error().split()))
        return Grammar(matcher)


class Grammar:
    """A compiled schema, from which every answer starts anew."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def start(self) -> "Constraint":
        """Return the beginning of an answer."""
        return Constraint(self._matcher.deep_copy())


class Constraint:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def complete(self) -> bool:
        """Whether nothing may follow any more."""
        return self._matcher.is_stopped()

    def allowed(self, logits: Tensor) -> Tensor:
        """Return the logits [vocabulary], minus infinity where the token may not come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        mask = torch.from_numpy(np.unpackbits(bits, count=len(logits), bitorder="little") == 0)
        return logits.masked_fill(mask.to(logits.device), float("-inf"))

    def advance(self, token: int) -> None:
        """Go on with a token that was allowed; GrammarError when the grammar cannot."""
        if not self._matcher.consume_token(token):
            raise GrammarError(f"the grammar broke off: {self._matcher.get_error()}")


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.eos_token_id = min(tokenizer.end_ids)
        every = range(tokenizer.size)
        self.special_token_ids = [token for token in every if not tokenizer.bytes_of(token)]
        # Those that steer the model need a name of their own, and are never part of a text.
        self.tokens = [tokenizer.bytes_of(token) or f"<|{token}|>".encode() for token in every]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes) -> Sequence[int]:
        return self._tokenizer.encode_part(text.decode(errors="replace"))
