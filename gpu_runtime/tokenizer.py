"""Text to token ids and back: byte-level BPE from a GGUF vocabulary, its chat template, text that arrives in pieces."""

import codecs
import datetime
import json
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tailbudget.instrument.errors import UserError

from .weights import Vocabulary

#: GGUF's type of a token that steers the model and is never part of a text, and of one added to the vocabulary.
CONTROL, USER_DEFINED = 3, 4
#: Texts of control tokens that end an answer, whatever the file names as its end token.
END_TEXTS = {"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "</s>"}


class ChatTemplateError(ValueError):
    """The messages do not fit the model's chat template; `str()` says why."""


class TextTokenizer:
    """Tokenises text and renders chats; UserError for a vocabulary that is not byte-level BPE."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        if vocabulary.kind != "gpt2":
            raise UserError(f"the model's tokenizer is {vocabulary.kind!r}: expected 'gpt2' (byte-level BPE)")
        self._start = [] if vocabulary.start_id is None else [vocabulary.start_id]
        self._encoder = _encoder(vocabulary)
        self._bytes = _token_bytes(vocabulary)
        self.size = len(vocabulary.tokens)
        self.end_ids = frozenset(
            {vocabulary.end_id}
            | {
                index
                for index, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
                if kind == CONTROL and text in END_TEXTS
            }
        )
        self._template = _template(vocabulary.chat_template)
        self._names_tools = "tools" in (vocabulary.chat_template or "")

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`; a special token's own text becomes that token."""
        return self._start + self._encoder.encode(text, add_special_tokens=False).ids

    def encode_chat(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Return the ids of a chat up to where the assistant answers; ChatTemplateError when it cannot be rendered."""
        if self._template is None:
            raise ChatTemplateError("this model's file has no chat template: use /v1/completions")
        if tools and not self._names_tools:
            raise ChatTemplateError("this model's chat template knows no tools: leave them out")
        try:
            text = self._template.render(
                messages=list(messages), add_generation_prompt=True, **({"tools": list(tools)} if tools else {})
            )
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the model's chat template refuses these messages: {error}") from error
        return self._encoder.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` without special tokens."""
        pieces = self.pieces()
        return "".join([pieces.feed(index) for index in ids]) + pieces.flush()

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


def _encoder(vocabulary: Vocabulary) -> Tokenizer:
    ids = {text: index for index, text in enumerate(vocabulary.tokens)}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.merges)]
    encoder = Tokenizer(models.BPE(ids, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    encoder.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    encoder.decoder = decoders.ByteLevel()
    encoder.add_special_tokens(_of_type(vocabulary, CONTROL))
    encoder.add_tokens(_of_type(vocabulary, USER_DEFINED))
    return encoder


def _of_type(vocabulary: Vocabulary, kind: int) -> list[AddedToken]:
    marked = zip(vocabulary.tokens, vocabulary.types, strict=True)
    return [AddedToken(text, special=kind == CONTROL, normalized=False) for text, found in marked if found == kind]


def _token_bytes(vocabulary: Vocabulary) -> list[bytes]:
    """Return what each token writes: nothing for control tokens, own text for added ones, else its bytes."""
    byte_of = _byte_of_character()
    written = []
    for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind == CONTROL:
            written.append(b"")
        elif kind == USER_DEFINED or any(character not in byte_of for character in text):
            written.append(text.encode())
        else:
            written.append(bytes([byte_of[character] for character in text]))
    return written


def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's alphabet: printable Latin-1 stands for itself, every other byte for a character from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(moved)}


def _template(source: str | None) -> jinja2.Template | None:
    if source is None:
        return None
    # A model's file is foreign code: the sandbox keeps its template from Python's internals.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
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
