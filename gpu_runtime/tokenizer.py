"""Text to token ids and back, the model's chat template, text that arrives in pieces."""

import codecs
import datetime
import json
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tailbudget.instrument.errors import UserError

from .encoders import CONTROL, SPACE, encoder, token_bytes
from .weights import Vocabulary

#: Texts of control tokens that end an answer, whatever the file names as its end token.
END_TEXTS = {"<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "</s>"}


class ChatTemplateError(ValueError):
    """The messages do not fit the model's chat template; `str()` says why."""


class TextTokenizer:
    """Tokenises text and renders chats; UserError for a vocabulary of a kind that is not known."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._start = [] if vocabulary.start_id is None else [vocabulary.start_id]
        self._encoder = encoder(vocabulary)
        self._bytes = token_bytes(vocabulary)
        self.size = len(vocabulary.tokens)
        self.end_ids = vocabulary.end_ids | {
            index
            for index, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
            if kind == CONTROL and text in END_TEXTS
        }
        self._prefix = " " if self._encoder.encode("a", add_special_tokens=False).tokens[0].startswith(SPACE) else ""
        self._template_texts = vocabulary.template_texts
        self._template = _template(vocabulary.chat_template)
        self._names_tools = "tools" in (vocabulary.chat_template or "")

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` and of what a text begins with; a special token's own text becomes that token."""
        return self._start + self._encoder.encode(text).ids

    def encode_part(self, text: str) -> list[int]:
        """Return the ids of `text` in the middle of another."""
        return self._encoder.encode(text, add_special_tokens=False).ids

    def encode_chat(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Return the ids of a chat up to where the assistant answers; ChatTemplateError when it cannot be rendered."""
        if self._template is None:
            raise ChatTemplateError("this model's file has no chat template: use /v1/completions")
        if tools and not self._names_tools:
            raise ChatTemplateError("this model's chat template knows no tools: leave them out")
        try:
            text = self._template.render(
                messages=list(messages),
                add_generation_prompt=True,
                **self._template_texts,
                **({"tools": list(tools)} if tools else {}),
            )
        except Exception as error:  # foreign code over what a client sent: a name that is a number is a TypeError
            raise ChatTemplateError(f"the model's chat template refuses these messages: {error}") from error
        return self._encoder.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` without special tokens, and without the space that the encoder puts first."""
        pieces = self.pieces()
        return ("".join([pieces.feed(index) for index in ids]) + pieces.flush()).removeprefix(self._prefix)

    def bytes_of(self, token: int) -> bytes:
        """Return what a token writes, maybe a part of a character; nothing for one that steers the model."""
        return self._bytes[token]

    def pieces(self) -> "Pieces":
        """Return a decoder for one stream of tokens."""
        return Pieces(self._bytes)


class Pieces:
    """Turns one stream of tokens into text, never in the middle of a character."""

    def __init__(self, token_bytes: list[bytes]) -> None:
        self._bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """Return the characters that `token` completes, maybe none."""
        return self._decoder.decode(self._bytes[token])

    def flush(self) -> str:
        """Return U+FFFD for the bytes of a character that never became whole."""
        return self._decoder.decode(b"", final=True)


def _template(source: str | None) -> jinja2.Template | None:
    if source is None:
        return None
    # A model's file is foreign code: the sandbox keeps its template from Python's internals.
    # Loop controls are part of what transformers gives to templates.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    # jinja2's own escapes <, > and & for web pages, which no model was trained on.
    environment.filters["tojson"] = _json
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise UserError(f"the model's chat template cannot be read: {error}") from error


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _now(pattern: str) -> Any:
    return datetime.datetime.now(tz=datetime.UTC).strftime(pattern)
