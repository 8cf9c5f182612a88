"""Our 4-bit kernel for CPUs against bitsandbytes' own."""

from __future__ import annotations

import bitsandbytes  # noqa: F401  defines the operator
import pytest
import torch

from aprnb.model.nf4 import quantize_4bit, quick_4bit

theirs = torch.ops.bitsandbytes.quantize_4bit.default


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("elements", [64 * 9, 1, 65, 100, (1 << 21) + 64])
def test_the_kernel_gives_the_bits_of_bitsandbytes(elements, dtype, kind):
    values = (torch.randn(elements, generator=torch.Generator().manual_seed(elements)) * 0.02).to(dtype)
    values[: 64 if elements > 64 else 0] = 0  # a block of zeros
    kept = values.clone()
    for blocksize in (64, 128):
        codes, largest = quantize_4bit(values, blocksize, kind, torch.uint8)
        expected_codes, expected_largest = theirs(values, blocksize, kind, torch.uint8)
        assert torch.equal(codes, expected_codes)
        assert torch.equal(largest, expected_largest)
    assert torch.equal(values, kept)


def test_values_on_a_midpoint_take_the_lower_code_as_in_bitsandbytes():
    from bitsandbytes.functional import get_4bit_type

    code = get_4bit_type("nf4", device="cpu")
    midpoints = (code[:-1] + code[1:]) / 2
    values = torch.ones(64)
    values[: len(midpoints)] = midpoints
    assert torch.equal(quantize_4bit(values, 64, "nf4", torch.uint8)[0], theirs(values, 64, "nf4", torch.uint8)[0])


def test_the_kernel_is_replaced_only_inside_the_block():
    def kernels() -> str:
        return torch._C._dispatch_dump("bitsandbytes::quantize_4bit")

    before = kernels()
    with quick_4bit():
        assert "\nCPU:" in kernels()
        values = torch.randn(4096)
        assert torch.equal(theirs(values, 64, "nf4", torch.uint8)[0], quantize_4bit(values, 64, "nf4", torch.uint8)[0])
    assert kernels() == before


@pytest.mark.filterwarnings("error")
def test_one_load_inside_another_overrides_nothing():
    values = torch.randn(4096)
    expected = theirs(values, 64, "nf4", torch.uint8)[0]
    with quick_4bit():
        with quick_4bit():
            assert torch.equal(theirs(values, 64, "nf4", torch.uint8)[0], expected)
        assert "\nCPU:" in torch._C._dispatch_dump("bitsandbytes::quantize_4bit")
