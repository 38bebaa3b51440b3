"""Every kind of tokenizer gives the ids of the library that models were trained with, and streams whole characters."""

import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tailbudget.gpu_runtime import tiny
from tailbudget.gpu_runtime.encoders import SPLITS
from tailbudget.gpu_runtime.tiny import TEXT
from tailbudget.gpu_runtime.tokenizer import TextTokenizer
from tailbudget.gpu_runtime.weights import Vocabulary, open_model
from tailbudget.instrument.errors import UserError

from .runtime_support import tiny_path

CHATS = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{{ eos_token }}{% break %}{% endfor %}"
TEXTS = st.text(alphabet=st.sampled_from("aeinrst AEÇœ'ß\n\t 019.,!—é🙂日本"), max_size=40)
TRAINED = TEXT * 3 + " we'll, I'M 2026 and 1234567 tokens!!\n\n  indented\tÀÉ 日本 ok"


@cache
def _byte_level(split: str) -> Vocabulary:
    """Return a vocabulary with merges that cross every boundary which the split does not make."""
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\n"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.train_from_iterator([TRAINED] * 2, trainer)
    ids = made.get_vocab()
    tokens = [*sorted(ids, key=lambda text: ids[text]), "<|begin_of_text|>", "<|eot_id|>"]
    merges = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in json.loads(made.to_str())["model"]["merges"]
    ]
    return Vocabulary(
        kind="gpt2",
        split=split,
        tokens=tokens,
        types=[1] * (len(tokens) - 2) + [3, 3],
        merges=merges,
        end_ids=frozenset({len(tokens) - 1}),
        start_id=None,
        chat_template=CHATS,
        template_texts={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    )


@settings(max_examples=60)
@given(TEXTS)
def test_qwens_ids_are_those_of_its_own_tokenizer(text: str) -> None:
    reference = _qwens()
    assert TextTokenizer(_byte_level("qwen2")).encode(text) == reference.encode(text).ids


@cache
def _qwens() -> Tokenizer:
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; it is in the extra dev")
    ours = _byte_level("qwen2")
    merges = [tuple(merge.split(" ")) for merge in ours.merges]
    made = transformers.Qwen2Tokenizer({text: index for index, text in enumerate(ours.tokens)}, merges)
    found: Tokenizer = made.backend_tokenizer
    return found


@pytest.mark.parametrize(
    ("split", "text", "parts"),
    [
        ("llama-bpe", "I'LL pay 12345 now", ["I", "'LL", " pay", " ", "123", "45", " now"]),
        ("qwen2", "I'LL pay 123 now", ["I", "'LL", " pay", " ", "1", "2", "3", " now"]),
        ("gpt-2", "I'll pay 123 now", ["I", "'ll", " pay", " 123", " now"]),
        ("smollm", "pay 123 now", ["pay", " ", "1", "2", "3", " now"]),
        ("tekken", "HTMLParser 12/\n", ["HTMLParser", " ", "1", "2", "/\n"]),
        ("llama-bpe", "a\n\n  b", ["a", "\n\n", " ", " b"]),
    ],
)
def test_text_is_cut_as_the_models_authors_cut_it(split: str, text: str, parts: list[str]) -> None:
    encoder = TextTokenizer(_byte_level(split))._encoder
    cut = encoder.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in cut] == parts


def test_the_split_of_llama_3_is_the_one_that_transformers_converts() -> None:
    converter = pytest.importorskip("transformers.convert_slow_tokenizer", reason="transformers is the reference")
    default = converter.TikTokenConverter.__init__.__defaults__
    assert SPLITS["llama-bpe"].pattern in default


def test_a_split_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="splits text as 'babel': expected one of default, gpt-2"):
        TextTokenizer(_byte_level("babel"))


def test_a_kind_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="is 'wordpiece': expected one of gpt2, llama"):
        TextTokenizer(replace(_byte_level("gpt-2"), kind="wordpiece"))


@cache
def _piece_model() -> bytes:
    sentencepiece = pytest.importorskip(
        "sentencepiece", reason="sentencepiece is the reference; it is in the extra dev"
    )
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINED.splitlines() * 3), model_writer=written, model_type="bpe", vocab_size=420,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        hard_vocab_limit=False, split_digits=True, num_threads=1,
    )  # fmt: skip
    return written.getvalue()


@cache
def _pieces() -> tuple[Vocabulary, Any]:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=_piece_model())
    every = range(model.vocab_size())
    types = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in every]
    vocabulary = Vocabulary(
        kind="llama",
        split="",
        tokens=[model.id_to_piece(index) for index in every],
        types=types,
        merges=[],
        end_ids=frozenset({model.eos_id()}),
        start_id=model.bos_id(),
        chat_template=CHATS,
        scores=[model.get_score(index) for index in every],
        prefix_space=True,
        template_texts={"bos_token": "<s>", "eos_token": "</s>"},
    )
    return vocabulary, model


@settings(max_examples=60)
@given(TEXTS.filter(bool))
def test_ids_of_sentence_piece_are_those_of_the_library(text: str) -> None:
    _piece_model()
    vocabulary, model = _pieces()
    assert TextTokenizer(vocabulary).encode(text) == [vocabulary.start_id, *model.encode(text)]


def test_a_gguf_file_keeps_all_of_sentence_pieces_vocabulary(tmp_path: Path) -> None:
    _piece_model()
    vocabulary = replace(_pieces()[0], split="default")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    tiny._write_shape(writer)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert open_model(tmp_path / "model.gguf").vocabulary == vocabulary


@settings(max_examples=60)
@given(TEXTS)
def test_any_text_comes_back_from_sentence_piece_in_whole_characters(text: str) -> None:
    _piece_model()
    tokenizer = TextTokenizer(_pieces()[0])
    ids = tokenizer.encode(text)
    pieces = tokenizer.pieces()
    parts = [pieces.feed(token) for token in ids]
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(parts)
    assert pieces.flush() == ""
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_chat_templates_know_the_first_and_last_token_and_loop_controls(kind: str) -> None:
    if kind == "llama":
        _piece_model()
    vocabulary = _byte_level("llama-bpe") if kind == "gpt2" else _pieces()[0]
    tokenizer = TextTokenizer(vocabulary)
    ids = tokenizer.encode_chat([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    assert (vocabulary.tokens[ids[0]], vocabulary.tokens[ids[-1]]) == tuple(vocabulary.template_texts.values())
    assert "".join(tokenizer.decode(ids).split()) == "[a]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the hub keeps them, with the tiny model's tokenizer and no weights to speak of."""
    from safetensors.numpy import save_file

    vocabulary = open_model(tiny_path()).vocabulary
    made = TextTokenizer(vocabulary)._encoder
    made.save(str(tmp_path / "tokenizer.json"))
    config = {
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 520,
        "num_attention_heads": 2, "max_position_embeddings": 64, "eos_token_id": [2, 5],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_folders_tokenizer_is_the_one_of_the_file_that_it_was_made_from(folder: Path) -> None:
    ours, theirs = TextTokenizer(open_model(tiny_path()).vocabulary), TextTokenizer(open_model(folder).vocabulary)
    text = "The river, 2026: größer 🙂<|im_end|>"
    assert theirs.encode(text) == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))
    assert theirs.end_ids == {2, 5} | ours.end_ids
    # Rows of the embedding without a token write nothing.
    assert (theirs.size, theirs.bytes_of(519)) == (520, b"")


@pytest.mark.parametrize("where", ["file", "list", "settings"])
def test_a_folders_chat_template_is_found_wherever_it_is_kept(folder: Path, where: str) -> None:
    settings_: dict[str, object] = {"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>"}
    if where == "file":
        (folder / "chat_template.jinja").write_text(CHATS)
    named = [{"name": "rag", "template": "no"}, {"name": "default", "template": CHATS}]
    settings_["chat_template"] = {"file": "no", "list": named, "settings": CHATS}[where]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_))
    tokenizer = TextTokenizer(open_model(folder).vocabulary)
    assert tokenizer.encode_chat([{"role": "user", "content": "a"}]) == tokenizer.encode("<|im_start|>[a]<|im_end|>")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("config.json", {"model_type": "gemma3"}, "model type 'gemma3': expected one of llama, mistral, qwen2, qwen3"),
        ("config.json", {"model_type": "llama", "quantization_config": {"bits": 4}}, "quantised weights"),
        ("config.json", {"model_type": "llama", "num_attention_heads": 2}, "lacks 'hidden_size'"),
        ("config.json", [], "holds list: expected an object"),
        ("tokenizer.json", None, "save the tokenizer"),
        ("model.safetensors", None, "model.safetensors cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_served_says_what_is_wrong(
    folder: Path, name: str, content: object, expected: str
) -> None:
    (folder / name).unlink() if content is None else (folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=expected):
        open_model(folder)


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "su", "mrope"])
def test_a_scaling_of_rope_that_is_not_built_is_refused_by_name(folder: Path, kind: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_scaling": {"type": kind, "factor": 4.0}}))
    expected = f"scales RoPE by '{kind}': expected one of 'default', 'linear', 'llama3', 'yarn'"
    with pytest.raises(UserError, match=expected):
        open_model(folder)


def test_a_scaling_of_rope_that_says_too_little_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_scaling": {"type": "llama3", "factor": 8.0}}))
    with pytest.raises(UserError, match="scales RoPE by 'llama3' and does not say 'low_freq_factor'"):
        open_model(folder)


def test_yarn_over_the_longest_position_is_as_qwens_model_cards_switch_it_on(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config | {"rope_scaling": scaling}))
    assert open_model(folder).shape.max_context == 256
