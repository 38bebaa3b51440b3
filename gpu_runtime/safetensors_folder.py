"""Reads a folder as Hugging Face's hub keeps models: config.json, *.safetensors, tokenizer.json."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor

from tailbudget.instrument.errors import UserError

from .rope import stretched
from .weights import ModelFile, Shape, Vocabulary

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
#: Our name of a part -> theirs.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
#: GGUF's types of tokens.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


class SafetensorsFolder(ModelFile):
    """An opened folder of the Llama family; UserError when it is anything else."""

    halves = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._config = self._json("config.json")
        kind = self._config.get("model_type")
        if kind not in MODEL_TYPES:
            raise UserError(f"{path} has the model type {kind!r}: expected one of {', '.join(MODEL_TYPES)}")
        if self._config.get("quantization_config"):
            raise UserError(f"{path} holds quantised weights: expected float ones, or convert the model to GGUF")
        self._files = self._open()
        self.shape = self._shape()
        self.vocabulary = self._vocabulary()

    def _json(self, name: str, *, needed: bool = True) -> dict[str, Any]:
        path = self.path / name
        if not needed and not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}): expected a folder as from_pretrained takes it"
            ) from error
        if not isinstance(found, dict):
            raise UserError(f"{path} holds {type(found).__name__}: expected an object")
        return found

    def _open(self) -> dict[str, Any]:
        """Return what reads each tensor, by its name."""
        index = self._json("model.safetensors.index.json", needed=False)
        names = sorted(set(index.get("weight_map", {}).values())) or ["model.safetensors"]
        try:
            files: list[Any] = [safe_open(self.path / name, framework="pt") for name in names]
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.path}: {', '.join(names)[:80]} cannot be read ({error}): fetch it again") from error
        return {name: file for file in files for name in file.keys()}  # noqa: SIM118 - a handle, no mapping

    def _shape(self) -> Shape:
        def whole(name: str, default: int | None = None) -> int:
            value = self._config.get(name)
            if value is None and default is None:
                raise UserError(f"{self.path / 'config.json'} lacks {name!r}: fetch the model again")
            return int(value if value is not None else default)  # type: ignore[arg-type]

        heads, hidden = whole("num_attention_heads"), whole("hidden_size")
        head_dim = whole("head_dim", hidden // heads)
        rope = self._config.get("rope_parameters") or self._config.get("rope_scaling") or {}
        base = float(self._config.get("rope_theta") or rope.get("rope_theta") or 10_000.0)
        divisors, amplitude, context = stretched(
            rope, base=base, head_dim=head_dim, context=whole("max_position_embeddings"), of=self.path
        )
        return Shape(
            layers=whole("num_hidden_layers"),
            hidden=hidden,
            feed_forward=whole("intermediate_size"),
            heads=heads,
            kv_heads=whole("num_key_value_heads", heads),
            head_dim=head_dim,
            vocabulary=whole("vocab_size"),
            max_context=context,
            rope_base=base,
            norm_eps=float(self._config.get("rms_norm_eps", 1e-6)),
            rope_divisors=divisors,
            rope_amplitude=amplitude,
            windows=self._windows(whole("num_hidden_layers")),
        )

    def _windows(self, layers: int) -> tuple[int, ...]:
        config = self._config
        window = config.get("sliding_window")
        if not window or not config.get("use_sliding_window", config["model_type"] == "mistral"):
            return ()
        kinds = config.get("layer_types")
        slides = (
            [kind == "sliding_attention" for kind in kinds]
            if kinds
            else [index >= config.get("max_window_layers", 0) for index in range(layers)]
        )
        return tuple(int(window) if slid else 0 for slid in slides)

    def _vocabulary(self) -> Vocabulary:
        path = self.path / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{path} is missing: save the tokenizer with transformers' save_pretrained first")
        text = path.read_text(encoding="utf-8")
        parts = json.loads(text)
        byte_level = '"ByteLevel"' in json.dumps([parts.get("pre_tokenizer"), parts.get("decoder")])
        if not byte_level and not parts["model"].get("byte_fallback"):
            raise UserError(f"{path} is neither byte-level BPE nor BPE with bytes to fall back to")
        tokens, types = self._tokens(Tokenizer.from_str(text), parts.get("added_tokens", []))
        settings = self._json("tokenizer_config.json", needed=False)
        generation = self._json("generation_config.json", needed=False)
        ends = generation.get("eos_token_id", self._config.get("eos_token_id"))
        texts = {name: _content(settings.get(name)) for name in ("bos_token", "eos_token")}
        end_ids = {token for token in (ends if isinstance(ends, list) else [ends]) if isinstance(token, int)}
        end_ids |= {tokens.index(texts["eos_token"])} if texts["eos_token"] in tokens else set()
        if not end_ids:
            raise UserError(f"{self.path} names no eos_token_id in config.json: no answer would end")
        return Vocabulary(
            kind="gpt2" if byte_level else "llama",
            split="",
            tokens=tokens,
            types=types,
            merges=[],
            end_ids=frozenset(end_ids),
            start_id=None,  # tokenizer.json's own post-processor says what a text begins with
            chat_template=self._template(settings),
            encoder_json=text,
            template_texts=texts,
        )

    def _tokens(self, encoder: Tokenizer, added: list[dict[str, Any]]) -> tuple[list[str], list[int]]:
        """Return text and type of each row of the embedding: some models have more rows than tokens."""
        tokens = [f"<|unused_{index}|>" for index in range(self.shape.vocabulary)]
        types = [UNUSED] * len(tokens)
        for text, index in encoder.get_vocab(with_added_tokens=True).items():
            if index >= len(tokens):
                raise UserError(f"{self.path} has the token {text!r} at {index}, beyond its {len(tokens)} embeddings")
            tokens[index], types[index] = text, NORMAL
        for token in added:
            types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
        return tokens, types

    def _template(self, settings: dict[str, Any]) -> str | None:
        path = self.path / "chat_template.jinja"
        found = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
        if isinstance(found, list):  # several by name
            found = next((each["template"] for each in found if each.get("name") == "default"), None)
        return found

    def __contains__(self, name: str) -> bool:
        return _their_name(name) in self._files and not (name == "output.weight" and self._tied)

    @property
    def _tied(self) -> bool:
        return bool(self._config.get("tie_word_embeddings"))

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is in the file, as float32, rows first; UserError when the folder lacks it."""
        theirs = _their_name(name)
        if theirs not in self._files:
            raise UserError(f"{self.path} lacks the tensor {theirs!r}: fetch the model again")
        found: Tensor = self._files[theirs].get_tensor(theirs)
        return found.float()


def _their_name(name: str) -> str:
    """Return transformers' name of a tensor: blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight."""
    head, _, kind = name.rpartition(".")
    if not head.startswith("blk."):
        return f"{NAMES[head]}.{kind}"
    _, index, part = head.split(".")
    return f"model.layers.{index}.{NAMES[part]}.{kind}"


def _content(token: Any) -> str:
    """Return the text of a token of tokenizer_config.json: a string, or an object with its content."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
