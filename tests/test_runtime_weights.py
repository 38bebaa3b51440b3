"""Model files load in every stored format, and the fast products give what the plain ones give."""

from pathlib import Path

import gguf
import pytest
import torch

from tailbudget.gpu_runtime.attention import attend
from tailbudget.gpu_runtime.kernels import linear
from tailbudget.gpu_runtime.model import Llama, Segment
from tailbudget.gpu_runtime.tiny import Quantisation, write_tiny_model
from tailbudget.gpu_runtime.weights import ModelFile
from tailbudget.instrument.errors import UserError

MATRIX = "blk.0.ffn_gate.weight"


@pytest.mark.parametrize("quantisation", ["F32", "Q8_0", "Q4_1"])
def test_a_tensor_is_dequantised_as_the_format_says(tmp_path: Path, quantisation: Quantisation) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", quantisation=quantisation)
    stored = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == MATRIX)
    expected = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type).copy())
    torch.testing.assert_close(ModelFile(path).tensor(MATRIX), expected)


def test_the_four_bit_product_agrees_with_the_dense_one(tmp_path: Path) -> None:
    file = ModelFile(write_tiny_model(tmp_path / "tiny.gguf", quantisation="Q4_1"))
    product = linear(file, [MATRIX], dtype=torch.bfloat16)
    assert product.few is not None
    rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    torch.testing.assert_close(product.few(rows).float(), rows.float() @ file.tensor(MATRIX).T, rtol=0.02, atol=0.03)


def test_float32_uses_no_rounded_twin(tmp_path: Path) -> None:
    file = ModelFile(write_tiny_model(tmp_path / "tiny.gguf", quantisation="Q4_1"))
    assert linear(file, [MATRIX], dtype=torch.float32).few is None


@pytest.mark.parametrize("chunks", [[40], [16, 16, 8], [1] * 40])
@pytest.mark.parametrize("pages", [[2, 3, 4], [5, 0, 3]], ids=["side by side", "apart"])
def test_a_prompt_gives_the_same_logits_in_any_chunks_and_pages(
    tmp_path: Path, chunks: list[int], pages: list[int]
) -> None:
    model = Llama(ModelFile(write_tiny_model(tmp_path / "tiny.gguf")), dtype=torch.float32)
    tokens = [(7 * index) % 500 + 3 for index in range(40)]
    whole = model.forward([Segment([0, 1, 2, 3], 0, tokens, 1)], model.cache(pages=4, size=16))
    cache, start = model.cache(pages=6, size=16), 0
    for count in chunks:
        logits = model.forward([Segment(pages, start, tokens[start : start + count], 1)], cache)
        start += count
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "positions"), [(1, 1), (1, 9), (5, 5), (5, 9)])
def test_attention_equals_the_textbook(rows: int, positions: int) -> None:
    random = torch.Generator().manual_seed(rows * 100 + positions)
    query = torch.randn(rows, 4, 8, generator=random)
    keys, values = torch.randn(2, positions, 2, 8, generator=random)
    expected = torch.empty(rows, 4, 8)
    for row in range(rows):
        seen = positions - rows + row + 1
        for head in range(4):
            scores = keys[:seen, head // 2] @ query[row, head] / 8**0.5
            expected[row, head] = scores.softmax(0) @ values[:seen, head // 2]
    torch.testing.assert_close(attend(query, keys, values), expected)


def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.gguf"
    path.write_text("these are notes")
    with pytest.raises(UserError, match="no readable GGUF file"):
        ModelFile(path)


def test_a_half_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match="no readable GGUF file"):
        ModelFile(path)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf")
    path.write_bytes(
        path.read_bytes().replace(b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00gemma", 1)
    )
    with pytest.raises(UserError, match="'gemma': expected 'llama'"):
        ModelFile(path)
