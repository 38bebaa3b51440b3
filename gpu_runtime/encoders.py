"""Builds the encoder of a vocabulary, byte-level BPE or SentencePiece's, and says what each token writes."""

import re
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tailbudget.instrument.errors import UserError

from .weights import Vocabulary

#: GGUF's types of a token that steers the model and is never part of a text, of one added to the vocabulary, of a row
#: without a token.
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
SPACE = "▁"
BYTE = re.compile("<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Split:
    """How text is cut before merges: by a pattern, GPT-2's own where there is none."""

    pattern: str = ""
    digits: bool = False
    composed: bool = False
    whole_words: bool = False


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_MARKS_AND_SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = Split(rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS_AND_SPACE}", whole_words=True)
_TEKKEN = Split(
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    whole_words=True,
)
#: GGUF's name of a pre-tokeniser -> what it does.
SPLITS: dict[str, Split] = {
    "": Split(),
    "default": Split(),
    "gpt-2": Split(),
    "smollm": Split(digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": Split(
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_MARKS_AND_SPACE}", composed=True
    ),
    "tekken": _TEKKEN,
}  # fmt: skip


def encoder(vocabulary: Vocabulary) -> Tokenizer:
    """Return what turns text into ids; UserError for a kind or a split that is not known."""
    if vocabulary.encoder_json:
        return Tokenizer.from_str(vocabulary.encoder_json)
    if vocabulary.kind not in KINDS:
        raise UserError(f"the model's tokenizer is {vocabulary.kind!r}: expected one of {', '.join(KINDS)}")
    made = KINDS[vocabulary.kind](vocabulary)
    made.add_special_tokens(_of_type(vocabulary, CONTROL))
    made.add_tokens(_of_type(vocabulary, USER_DEFINED))
    return made


def _byte_level(vocabulary: Vocabulary) -> Tokenizer:
    if vocabulary.split not in SPLITS:
        known = ", ".join(name for name in SPLITS if name)
        raise UserError(f"the model's tokenizer splits text as {vocabulary.split!r}: expected one of {known}")
    split = SPLITS[vocabulary.split]
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.merges)]
    made = Tokenizer(models.BPE(_ids(vocabulary), merges, ignore_merges=split.whole_words))
    steps: list[pre_tokenizers.PreTokenizer] = []
    steps += [pre_tokenizers.Digits(individual_digits=True)] if split.digits else []
    steps += [pre_tokenizers.Split(Regex(split.pattern), "isolated")] if split.pattern else []
    steps += [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split.pattern)]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if split.composed:
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    return made


def _sentence_piece(vocabulary: Vocabulary) -> Tokenizer:
    ids = _ids(vocabulary)
    model = models.BPE(ids, _merges(vocabulary, ids), unk_token=vocabulary.tokens[0], fuse_unk=True, byte_fallback=True)
    made = Tokenizer(model)
    spaces = normalizers.Replace(" ", SPACE)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if vocabulary.prefix_space else spaces
    return made


def _merges(vocabulary: Vocabulary, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Return every pair that makes a token, in SentencePiece's order: by the score of what it makes, best first."""
    found = [
        (-vocabulary.scores[index], index, at)
        for text, index in ids.items()
        if vocabulary.types[index] not in (CONTROL, USER_DEFINED)
        for at in range(1, len(text))
        if text[:at] in ids and text[at:] in ids
    ]
    return [(vocabulary.tokens[index][:at], vocabulary.tokens[index][at:]) for _, index, at in sorted(found)]


KINDS = {"gpt2": _byte_level, "llama": _sentence_piece}


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    return {text: index for index, text in enumerate(vocabulary.tokens)}


def _of_type(vocabulary: Vocabulary, kind: int) -> list[AddedToken]:
    marked = zip(vocabulary.tokens, vocabulary.types, strict=True)
    return [AddedToken(text, special=kind == CONTROL, normalized=False) for text, found in marked if found == kind]


def token_bytes(vocabulary: Vocabulary) -> list[bytes]:
    """Return what each token writes: nothing where it steers the model, its text where it was added, else its bytes."""
    byte_of = _byte_of_character()
    written = []
    for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind in (CONTROL, UNUSED):
            written.append(b"")
        elif kind == USER_DEFINED:
            written.append(text.encode())
        elif vocabulary.kind == "llama":
            byte = BYTE.fullmatch(text)
            written.append(bytes.fromhex(byte[1]) if byte else text.replace(SPACE, " ").encode())
        elif any(character not in byte_of for character in text):
            written.append(text.encode())
        else:
            written.append(bytes([byte_of[character] for character in text]))
    return written


def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's alphabet: printable Latin-1 stands for itself, every other byte for a character from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(moved)}
