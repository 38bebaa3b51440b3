"""Each architecture gives the logits that transformers gives, from a safetensors folder and from a GGUF file."""

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tailbudget.gpu_runtime.model import Llama, Segment
from tailbudget.gpu_runtime.weights import ModelFile, open_model

from .runtime_support import on_devices
from .support import scratch

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Kind:
    """An architecture: its class in transformers, what is special about it, GGUF's name for it."""

    model: str
    architecture: str
    config: dict[str, Any] = field(default_factory=dict)
    #: Whether converters can say in a GGUF file what is special.
    in_gguf: bool = True


KINDS = {
    "llama 2": Kind("Llama", "llama"),
    "llama 3": Kind("Llama", "llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama, linear rope": Kind(
        "Llama", "llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}
    ),
    "qwen2, yarn": Kind("Qwen2", "qwen2", {"rope_parameters": YARN_ROPE}),
    "qwen3, yarn with a ramp of its own": Kind(
        "Qwen3", "qwen3", {"head_dim": 32, "rope_parameters": {**YARN_ROPE, "beta_fast": 4, "beta_slow": 0.5}}
    ),
    "llama, yarn with an attention factor": Kind(
        "Llama", "llama", {"rope_parameters": {**YARN_ROPE, "attention_factor": 0.7}}
    ),
    "llama, yarn as deepseek scales it": Kind(
        "Llama",
        "llama",
        {"rope_parameters": {**YARN_ROPE, "factor": None, "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False}},
        in_gguf=False,
    ),
    "smollm2": Kind("Llama", "llama", {"tie_word_embeddings": True}),
    "llama with biases": Kind("Llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": Kind("Qwen2", "qwen2"),
    "qwen2, upper layers with a window": Kind(
        "Qwen2", "qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}, in_gguf=False
    ),
    "qwen3": Kind("Qwen3", "qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "mistral": Kind("Mistral", "llama", {"sliding_window": None}),
    "mistral with a window": Kind("Mistral", "llama", {"sliding_window": 9}),
}
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip


@cache
def _reference(name: str) -> Any:
    kind = KINDS[name]
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; it is in the extra dev")
    config = getattr(transformers, f"{kind.model}Config")(**SIZES | kind.config, attn_implementation="eager")
    model = getattr(transformers, f"{kind.model}ForCausalLM")(config).float().eval()
    random = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for tensor in model.parameters():
            # Norms around one; everything else, biases too, so large that leaving it out shows.
            noise = torch.randn(tensor.shape, generator=random)
            tensor.copy_(1 + 0.2 * noise if tensor.ndim == 1 and bool((tensor == 1).all()) else 0.3 * noise)
    return model


def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({text: index for index, text in enumerate(["<s>", "</s>", *alphabet])}, []))
    made.add_special_tokens(["<s>", "</s>"])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


@cache
def _folder(name: str) -> Path:
    path = scratch()
    _reference(name).save_pretrained(path, max_shard_size="100KB" if name == "qwen2" else "5GB")
    _tokenizer().save(str(path / "tokenizer.json"))
    return path


@cache
def _gguf(name: str) -> Path:
    """Write what a converter would: llama's query and key rows permuted, its RoPE scaling as factors."""
    kind, model = KINDS[name], _reference(name)
    config, path = model.config, scratch() / "model.gguf"
    writer = gguf.GGUFWriter(path, kind.architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(model.model.layers[0].self_attn.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    if config.rope_parameters["rope_type"] == "yarn":
        _add_yarn(writer, config.rope_parameters)
    if config.rope_parameters["rope_type"] == "llama3":
        head_dim = model.model.layers[0].self_attn.head_dim
        plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, head_dim, 2) / head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
    for theirs, tensor in model.named_parameters():
        writer.add_tensor(_gguf_name(theirs), _permuted(kind, theirs, tensor.detach().numpy(), config))
    texts = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    texts += [f"<|unused_{index}|>" for index in range(len(texts), config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(texts)
    writer.add_token_types([3 if text.startswith("<") and len(text) > 1 else 1 for text in texts])
    writer.add_token_merges([f"{texts[2]} {texts[3]}"])
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_yarn(writer: gguf.GGUFWriter, rope: dict[str, Any]) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if "beta_fast" in rope:
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if "attention_factor" in rope:  # llama.cpp multiplies the paper's by it
        writer.add_rope_scaling_attn_factors(rope["attention_factor"] / (0.1 * math.log(rope["factor"]) + 1))


def _gguf_name(theirs: str) -> str:
    head, _, kind = theirs.rpartition(".")
    if not head.startswith("model.layers."):
        return f"{GGUF_NAMES[head]}.{kind}"
    index, _, part = head.removeprefix("model.layers.").partition(".")
    return f"blk.{index}.{GGUF_NAMES[part]}.{kind}"


def _permuted(kind: Kind, theirs: str, tensor: Any, config: Any) -> Any:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(theirs.split(".")[-2])
    if kind.architecture != "llama" or heads is None:
        return tensor
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))


def _check(name: str, file: ModelFile, device: str) -> None:
    tokens = [(7 * index) % 250 + 3 for index in range(120)]
    with torch.inference_mode():
        expected = _reference(name)(torch.tensor([tokens])).logits[0]
    model = Llama(file, form="float32", device=device)
    size = 256 if device == "cuda" else 16
    cache_ = model.cache(pages=8, size=size)
    found, start = [], 0
    for count in (70, 33, 1, 1, 15):
        part = tokens[start : start + count]
        found.append(model.forward([Segment(range(8), start, part, tail=count)], cache_))
        start += count
    torch.testing.assert_close(torch.cat(found).cpu(), expected, rtol=2e-4, atol=2e-4)


@on_devices
@pytest.mark.parametrize("name", KINDS)
def test_a_safetensors_folder_gives_the_logits_of_transformers(name: str, device: str) -> None:
    _check(name, open_model(_folder(name)), device)


@on_devices
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.in_gguf])
def test_a_gguf_file_gives_the_logits_of_transformers(name: str, device: str) -> None:
    _check(name, open_model(_gguf(name)), device)
