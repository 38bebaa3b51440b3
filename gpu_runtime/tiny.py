"""A two-layer Llama with random weights and a tokenizer trained on the spot: a real model file for tests."""

import json
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

VOCABULARY = 512
HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS, CONTEXT = 64, 128, 2, 4, 2, 2048
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = """
A request waits in a queue, its prompt is computed, and then one token after another is decoded and sent.
The model answers in plain words: the river runs to the sea, the train leaves at noon, the garden is green in June.
Time is measured from the moment when a request arrives until the last token leaves. Ça marche, œuvre, naïve, größer.
"""
Matrix = npt.NDArray[np.float32]
Quantisation = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]


def write_tiny_model(path: Path, *, quantisation: Quantisation = "F32", seed: int = 0) -> Path:
    """Write a GGUF file that the runtime loads like any other, and return its path.

    It speaks nonsense, always the same for one seed, and never ends an answer by itself: it goes on until max_tokens.
    """
    writer = gguf.GGUFWriter(path, "llama")
    _write_shape(writer)
    tokens = _tokens(writer)
    kind = gguf.GGMLQuantizationType[quantisation]
    for name, tensor in _weights(tokens, np.random.default_rng(seed)).items():
        stored = gguf.GGMLQuantizationType.F32 if tensor.ndim == 1 else kind
        writer.add_tensor(name, gguf.quantize(tensor, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_shape(writer: gguf.GGUFWriter) -> None:
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)


def _tokens(writer: gguf.GGUFWriter) -> list[str]:
    """Train a tokenizer, write it, and return its tokens by id."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    ids = tokenizer.get_vocab()
    unused = [f"<|unused_{index}|>" for index in range(len(ids), VOCABULARY)]
    tokens = [*sorted(ids, key=lambda text: ids[text]), *unused]
    merges = [" ".join(pair) for pair in _merges(tokenizer)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if text in SPECIAL or text in unused else 1 for text in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|im_start|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(value=False)
    writer.add_chat_template(TEMPLATE)
    return tokens


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    found = json.loads(tokenizer.to_str())["model"]["merges"]
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in found]


def _weights(tokens: list[str], random: np.random.Generator) -> dict[str, Matrix]:
    def matrix(rows: int, columns: int, scale: float = 1.0) -> Matrix:
        return random.normal(0, scale * columns**-0.5, (rows, columns)).astype(np.float32)

    ones = np.ones(HIDDEN, dtype=np.float32)
    key_rows = HIDDEN * KV_HEADS // HEADS
    # The first coordinate of every state is positive, since no layer writes to it. The head's rows of control tokens
    # point against it, so that no answer ends early, and those of single bytes, so that it speaks in characters.
    # A head of its own: a tied one would repeat the last token.
    embedding, head = matrix(VOCABULARY, HIDDEN), matrix(VOCABULARY, HIDDEN, 3.0)
    embedding[:, 0] = 0.5
    unwanted = [index for index, text in enumerate(tokens) if len(text) == 1 or text.startswith("<|")]
    head[unwanted] = 0.0
    head[unwanted, 0] = -100.0
    weights = {"token_embd.weight": embedding, "output.weight": head, "output_norm.weight": ones}
    for index in range(LAYERS):
        writes = {"attn_output": matrix(HIDDEN, HIDDEN, 4.0), "ffn_down": matrix(HIDDEN, FEED_FORWARD, 2.0)}
        for tensor in writes.values():
            tensor[0] = 0.0
        layer = {
            "attn_norm": ones,
            "attn_q": matrix(HIDDEN, HIDDEN),
            "attn_k": matrix(key_rows, HIDDEN),
            "attn_v": matrix(key_rows, HIDDEN),
            "ffn_norm": ones,
            "ffn_gate": matrix(FEED_FORWARD, HIDDEN),
            "ffn_up": matrix(FEED_FORWARD, HIDDEN),
            **writes,
        }
        weights |= {f"blk.{index}.{name}.weight": tensor for name, tensor in layer.items()}
    return weights
