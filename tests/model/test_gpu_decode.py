"""The decoders for GPUs against those for CPUs; they run on any device that torch has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aprnb.formats.codecs import decode
from aprnb.formats.dtypes import BY_NAME
from aprnb.model import gpu_decode
from aprnb.model.device import Placement

DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]
HALVES = {"Q4_K": (0, 2), "Q6_K": (208,), "Q8_0": (0,), "AprQ4": (0,)}
"""Where each block holds its f16 numbers; the other bytes may be any."""


def random_blocks(name: str, count: int) -> bytearray:
    rng = np.random.default_rng(count)
    found = rng.integers(0, 256, (count, BY_NAME[name].block_bytes), np.uint8)
    for start in HALVES[name]:
        scale = rng.uniform(-0.1, 0.1, count).astype("<f2")
        found[:, start : start + 2] = scale.view(np.uint8).reshape(-1, 2)
    return bytearray(found.tobytes())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", HALVES)
def test_every_bit_is_that_of_the_decoder_for_cpus(name, device, monkeypatch):
    monkeypatch.setattr(gpu_decode, "PART_ELEMENTS", 2048)  # several parts, the last one short
    dtype, shape = BY_NAME[name], (9, 512)
    raw = random_blocks(name, 9 * 512 // dtype.block_elements)
    found = gpu_decode.decode_on(torch.device(device), raw, dtype, shape, torch.float32)
    assert found.shape == shape
    assert np.array_equal(found.cpu().numpy().view(np.uint32), decode(raw, dtype, shape).view(np.uint32))
    halves = gpu_decode.decode_on(torch.device(device), raw, dtype, shape, torch.bfloat16)
    assert np.array_equal(halves.cpu().view(torch.uint16).numpy(), decode(raw, dtype, shape, to="BF16"))


def test_padded_rows_odd_ends_and_rare_types_are_left_to_the_cpu():
    q4_k, q2_k = BY_NAME["Q4_K"], BY_NAME["Q2_K"]
    assert gpu_decode.can_decode(q4_k, (2, 256), 2 * 144)
    assert not gpu_decode.can_decode(q4_k, (2, 128), 2 * 144)  # each row a padded block
    assert not gpu_decode.can_decode(q4_k, (300,), 2 * 144)
    assert not gpu_decode.can_decode(q2_k, (2, 256), 2 * q2_k.block_bytes)
    assert gpu_decode.can_decode(BY_NAME["Q8_0"], (2, 16), 34)


def test_a_model_for_a_gpu_gets_its_blocks_decoded_there(real, monkeypatch):
    """Told that its device is a GPU, the reader hands the raw bytes on, once per quantised tensor."""
    import aprnb
    from aprnb.model import build

    asked = []

    def on_gpu(device, raw, dtype, shape, target):
        asked.append((device.type, len(raw)))
        return gpu_decode.decode_on(torch.device("cpu"), raw, dtype, shape, target)

    monkeypatch.setattr(build, "decode_on", on_gpu)
    with aprnb.open(real("pocket-qwen3-q4k")) as checkpoint:
        report = aprnb.check(checkpoint)
        for name in report.weights:
            build.read_tensor(checkpoint, report, name, Placement(torch.device("cuda"), torch.bfloat16))
        blocks = [entry for entry in checkpoint.tensors.values() if entry.dtype.name == "Q4_K"]
        quantised = [entry.size_bytes for entry in blocks if entry.shape[1] % 256 == 0]  # the others have padded rows
    assert quantised
    assert sorted(asked) == sorted(("cuda", size) for size in quantised)
