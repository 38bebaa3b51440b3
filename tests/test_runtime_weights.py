"""Model files load in every stored format, and the fast products give what the plain ones give."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from tailbudget.gpu_runtime import tiny
from tailbudget.gpu_runtime.attention import attend
from tailbudget.gpu_runtime.kernels import FORMS, four_bit, linear
from tailbudget.gpu_runtime.model import Llama, Segment
from tailbudget.gpu_runtime.runner import placed
from tailbudget.gpu_runtime.settings import Form
from tailbudget.gpu_runtime.tiny import Quantisation, write_tiny_model
from tailbudget.gpu_runtime.weights import open_model
from tailbudget.instrument.errors import UserError

from .runtime_support import on_devices

MATRIX = "blk.0.ffn_gate"
CPU = torch.device("cpu")
#: Rows of the tiny model's head that are no -100: what it speaks in.
VOICED = slice(262, 300)
#: Stored types, and where the float16 numbers are in a block of each quantised one.
FLOATS = ("F32", "F16", "BF16")
HALVES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,), "Q5_0": (0,), "Q5_K": (0, 2)}


def _one_matrix(path: Path, kind: gguf.GGMLQuantizationType) -> Path:
    """Write a file with one matrix of 8 x 512 in a stored type, of random bytes with scales that are numbers."""
    writer = gguf.GGUFWriter(path, "llama")
    tiny._write_shape(writer)
    tiny._tokens(writer)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(3)
    data = random.integers(0, 256, (8, 512 // block, size), dtype=np.uint8)
    for at in HALVES.get(kind.name, ()):
        halves = random.uniform(-0.1, 0.1, data.shape[:2]).astype(np.float16)
        data[..., at : at + 2] = halves[..., None].view(np.uint8)
    if kind.name in FLOATS:
        data = random.normal(size=(8, 512)).astype(np.float32)
        data = gguf.quantize(data, kind)
    writer.add_tensor(f"{MATRIX}.weight", data.reshape(8, -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", [*FLOATS, *HALVES])
def test_a_tensor_is_dequantised_as_the_format_says(tmp_path: Path, name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    file = open_model(_one_matrix(tmp_path / "one.gguf", kind))
    stored = gguf.GGUFReader(file.path).tensors[0]
    expected = torch.from_numpy(gguf.dequantize(stored.data, kind).astype(np.float32))
    torch.testing.assert_close(file.tensor(f"{MATRIX}.weight"), expected, rtol=1e-6, atol=1e-7)
    packed = file.four_bit(f"{MATRIX}.weight")
    assert (packed is not None) == name.startswith("Q4")
    if packed:
        assert (int(packed.codes.min()), int(packed.codes.max())) == (0, 15)


def test_a_stored_type_that_nobody_reads_is_named(tmp_path: Path) -> None:
    file = open_model(_one_matrix(tmp_path / "one.gguf", gguf.GGMLQuantizationType.Q8_1))
    with pytest.raises(UserError, match="in Q8_1, which is not read"):
        file.tensor(f"{MATRIX}.weight")


def test_the_four_bit_product_agrees_with_the_dense_one(tmp_path: Path) -> None:
    file = open_model(write_tiny_model(tmp_path / "tiny.gguf", quantisation="Q4_1"))
    product = linear(file, [MATRIX], form="auto", device=CPU)
    assert product.few is not None
    rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    torch.testing.assert_close(
        product.few(rows).float(), rows.float() @ file.tensor(f"{MATRIX}.weight").T, rtol=0.02, atol=0.03
    )


def test_float32_uses_no_rounded_twin(tmp_path: Path) -> None:
    file = open_model(write_tiny_model(tmp_path / "tiny.gguf", quantisation="Q4_1"))
    assert linear(file, [MATRIX], form="float32", device=CPU).few is None


@pytest.mark.parametrize("form", ["auto", "bfloat16", "int8", "int4"])
def test_a_form_gives_nearly_the_logits_of_float32_for_few_rows_and_for_many(tmp_path: Path, form: Form) -> None:
    file = open_model(write_tiny_model(tmp_path / "tiny.gguf", quantisation="Q8_0"))
    exact, model = (Llama(file, form=each) for each in ("float32", form))
    tokens = [(7 * index) % 500 + 3 for index in range(40)]
    whole = [Segment([0, 1, 2], 0, tokens, 40)]
    expected = exact.forward(whole, exact.cache(pages=3, size=16))
    found = model.forward(whole, model.cache(pages=3, size=16))
    cache = model.cache(pages=3, size=16)
    rows = [model.forward([Segment([0, 1, 2], at, [token], 1)], cache) for at, token in enumerate(tokens)]
    # The tiny model's logits stand far apart: 4 bits move them by a tenth of their spread.
    spread = expected[:, VOICED].std()
    for logits in (found, torch.cat(rows)):
        error = (logits - expected)[:, VOICED].std() / spread
        assert error < {"int4": 0.35}.get(form, 0.05)
    assert (model.layers[0].down.packed is not None) == form.startswith("int")
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("stored", ["Q4_0", "Q4_1"])
def test_a_four_bit_file_keeps_its_own_codes_and_int4_makes_some_for_others(
    tmp_path: Path, stored: Quantisation
) -> None:
    file = open_model(write_tiny_model(tmp_path / "tiny.gguf", quantisation=stored))
    for form in ("auto", "int4"):
        product = linear(file, [MATRIX], form=form, device=CPU)
        assert product.few is not None
        torch.testing.assert_close(product.weight, file.tensor(f"{MATRIX}.weight").bfloat16())
    plain = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    groups = plain.view(8, 2, 32)
    step = (groups.amax(-1) - groups.amin(-1)) / 15
    assert bool(((four_bit(plain).dense() - plain).view(8, 2, 32).abs() <= step[..., None] / 2 + 1e-6).all())
    with pytest.raises(UserError, match="rows of a multiple of 32, this model has 40: choose int8"):
        four_bit(torch.zeros(4, 40))


@on_devices
@pytest.mark.parametrize("form", ["float16", "int8", "int4"])
def test_a_form_without_kernels_on_the_device_is_refused_by_name(tmp_path: Path, form: Form, device: str) -> None:
    file = open_model(write_tiny_model(tmp_path / "tiny.gguf"))
    if form in FORMS[device]:
        Llama(file, form=form, device=device)
        return
    with pytest.raises(UserError, match=f"dtype is '{form}': expected one of auto, float32, bfloat16"):
        Llama(file, form=form, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_asked_for_in_vain() -> None:
    assert placed("auto") == placed("cpu") == CPU
    with pytest.raises(UserError, match="torch sees no GPU"):
        placed("cuda")


@pytest.mark.parametrize("chunks", [[40], [16, 16, 8], [1] * 40])
@pytest.mark.parametrize("pages", [[2, 3, 4], [5, 0, 3]], ids=["side by side", "apart"])
def test_a_prompt_gives_the_same_logits_in_any_chunks_and_pages(
    tmp_path: Path, chunks: list[int], pages: list[int]
) -> None:
    model = Llama(open_model(write_tiny_model(tmp_path / "tiny.gguf")), form="float32")
    tokens = [(7 * index) % 500 + 3 for index in range(40)]
    whole = model.forward([Segment([0, 1, 2, 3], 0, tokens, 1)], model.cache(pages=4, size=16))
    cache, start = model.cache(pages=6, size=16), 0
    for count in chunks:
        logits = model.forward([Segment(pages, start, tokens[start : start + count], 1)], cache)
        start += count
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [0, 1, 4, 50])
@pytest.mark.parametrize(("rows", "positions"), [(1, 1), (1, 9), (5, 5), (5, 9)])
def test_attention_equals_the_textbook(rows: int, positions: int, window: int) -> None:
    random = torch.Generator().manual_seed(rows * 100 + positions)
    query = torch.randn(rows, 4, 8, generator=random)
    keys, values = torch.randn(2, positions, 2, 8, generator=random)
    expected = torch.empty(rows, 4, 8)
    for row in range(rows):
        last = positions - rows + row + 1
        seen = slice(max(0, last - window) if window else 0, last)
        for head in range(4):
            scores = keys[seen, head // 2] @ query[row, head] / 8**0.5
            expected[row, head] = scores.softmax(0) @ values[seen, head // 2]
    torch.testing.assert_close(attend(query, keys, values, window=window), expected)


def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.gguf"
    path.write_text("these are notes")
    with pytest.raises(UserError, match="no readable GGUF file"):
        open_model(path)


def test_a_half_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match="no readable GGUF file"):
        open_model(path)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf")
    path.write_bytes(
        path.read_bytes().replace(b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00gemma", 1)
    )
    with pytest.raises(UserError, match="'gemma': expected one of 'llama', 'qwen2', 'qwen3'"):
        open_model(path)
