"""Devices, decoders, NF4 and logits: the device against the CPU."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import numpy as np
import torch

import aprnb
from aprnb.errors import UsageProblem
from aprnb.formats.codecs import decode
from aprnb.formats.dtypes import BY_NAME
from aprnb.model import gpu_decode, nf4
from aprnb.model.device import place
from aprnb.model.memory import free_bytes
from smoke.models import SCALES, random_blocks, small_file
from smoke.report import Smoke

PACKAGES = "torch transformers accelerate peft bitsandbytes safetensors tokenizers numpy".split()


def environment(smoke: Smoke) -> None:
    """Versions, the card, and what it reaches in a matrix product and in copies."""
    with smoke.case("environment") as facts:
        facts |= {"python": platform.python_version(), "device": str(smoke.device), "aprnb": aprnb.__version__}
        facts |= {name: metadata.version(name) for name in PACKAGES}
    if not smoke.on_gpu:
        return
    with smoke.case("environment.gpu") as facts:
        card = torch.cuda.get_device_properties(smoke.device)
        facts |= {
            "name": card.name,
            "capability": f"{card.major}.{card.minor}",
            "processors": card.multi_processor_count,
        }
        facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), **smoke.memory()}
        facts["total_GiB"] = round(card.total_memory / 2**30, 2)
        square = torch.randn(8192, 8192, device=smoke.device, dtype=torch.bfloat16)
        facts["bf16_TFLOPs"] = round(2 * 8192**3 / smoke.median_s(lambda: square @ square, 5) / 1e12, 1)
        one = torch.empty(1 << 30, dtype=torch.uint8, device=smoke.device)
        other = torch.empty_like(one)
        facts["copy_GBs"] = round(2 * one.numel() / smoke.median_s(lambda: other.copy_(one), 5) / 1e9, 1)
        host = torch.empty(1 << 28, dtype=torch.uint8)
        for kind, source in (("pageable", host), ("pinned", host.pin_memory())):
            seconds = smoke.median_s(lambda source=source: source.to(smoke.device))
            facts[f"upload_{kind}_GBs"] = round(source.numel() / seconds / 1e9, 2)


def devices(smoke: Smoke) -> None:
    """A device that does not exist is rejected."""
    with smoke.case("devices") as facts:
        beyond = f"cuda:{torch.cuda.device_count()}"
        for name in (beyond, "cuda:300", "mps", "meta", "cpu:0", "auto", str(smoke.device)):
            try:
                found = place(name)
                facts[name] = f"{found.device} {found.dtype_name}: {found.dtype_reason}"
            except UsageProblem:
                facts[name] = "rejected"
        missing = (beyond, "cuda:300", "mps", "meta", "cpu:0")
        facts.require(missing_are_rejected=all(facts[name] == "rejected" for name in missing))
        facts.require(own_is_accepted=facts[str(smoke.device)].startswith(str(smoke.device)))


def free_memory(smoke: Smoke) -> None:
    """What torch keeps for itself after it was freed counts as free."""
    with smoke.case("free_memory") as facts:
        before, size = free_bytes(smoke.device), 1 << (24 if smoke.is_tiny else 31)
        held = torch.ones(size, dtype=torch.uint8, device=smoke.device)
        during = free_bytes(smoke.device)
        del held
        after = free_bytes(smoke.device)
        facts |= {"before_GiB": before / 2**30, "during_GiB": during / 2**30, "after_GiB": after / 2**30}
        if smoke.on_gpu:  # other programs take and give back memory of the system meanwhile
            facts.require(taken=before - during > 0.9 * size, given_back=before - after < 0.1 * size)


def decoders(smoke: Smoke) -> None:
    """Blocks decoded on the device have the bits of the decoder for CPUs."""
    shape = (64 if smoke.is_tiny else 4096, 4096)
    for name in SCALES:
        with smoke.case(f"decoders.{name}") as facts:
            dtype = BY_NAME[name]
            raw = random_blocks(name, shape[0] * shape[1] // dtype.block_elements)

            def on_device(target: torch.dtype, raw: bytearray = raw, dtype: Any = dtype) -> torch.Tensor:
                return gpu_decode.decode_on(smoke.device, raw, dtype, shape, target)

            single = on_device(torch.float32).cpu().numpy().view(np.uint32)
            half = on_device(torch.bfloat16).cpu().view(torch.uint16).numpy()
            facts.require(
                float32_bits=np.array_equal(single, decode(raw, dtype, shape).view(np.uint32)),
                bfloat16_bits=np.array_equal(half, decode(raw, dtype, shape, to="BF16")),
            )
            seconds = smoke.median_s(lambda: on_device(torch.bfloat16))
            facts |= {"Gelements_per_s": round(shape[0] * shape[1] / seconds / 1e9, 2), **smoke.memory()}


def nf4_codes(smoke: Smoke) -> None:
    """bitsandbytes on the device makes the codes and scales that aprnb makes on a CPU, but for ties."""
    from bitsandbytes import functional

    for dtype in (torch.float32, torch.bfloat16):
        with smoke.case(f"nf4_codes.{dtype}".replace("torch.", "")) as facts:
            generator = torch.Generator().manual_seed(0)
            values = (torch.randn(256 if smoke.is_tiny else 4096, 1024, generator=generator) * 0.02).to(dtype)
            codes, scales = nf4.quantize_4bit(values, 64, "nf4", torch.uint8)
            found, state = functional.quantize_4bit(
                values.to(smoke.device), blocksize=64, quant_type="nf4", compress_statistics=False
            )
            differing = found.cpu().reshape(-1) ^ codes.reshape(-1)
            count = int((differing & 15 != 0).sum() + (differing >> 4 != 0).sum())
            back = functional.dequantize_4bit(found, state).float().cpu()
            error = float((back - values.float()).norm() / values.float().norm())
            facts |= {"differing_codes": count, "codes": values.numel(), "relative_error": round(error, 4)}
            facts.require(
                same_codes=count <= 1e-5 * values.numel(),
                same_scales=torch.equal(state.absmax.cpu().reshape(-1), scales.reshape(-1)),
                error_of_4_bits=error < 0.1,  # NF4 of normal values has 0.09 (Dettmers et al. 2023)
            )


LIMITS = {("float32", None): 2e-4, ("float32", "nf4"): 2e-4, ("bfloat16", None): 0.05, ("bfloat16", "nf4"): 0.08}
"""Relative differences of the logits: bfloat16 has 8 bits, and another order of sums in each kernel."""


def logits(smoke: Smoke) -> None:
    """The device computes the logits that the CPU computes from the same file."""
    for kind in ("F32", "Q4_K"):
        for (dtype, quantize), limit in LIMITS.items():
            if dtype == "bfloat16" and not smoke.on_gpu:
                continue
            with smoke.case(f"logits.{kind}.{dtype}.{quantize}") as facts:
                ids = torch.randint(0, 1000, (1, 96), generator=torch.Generator().manual_seed(1))
                path = small_file(smoke, kind)
                cpu, device = (_logits(path, one, dtype, quantize, ids) for one in ("cpu", str(smoke.device)))
                difference = float((cpu - device).norm() / cpu.norm())
                facts |= {"relative_difference": difference, "limit": limit}
                facts.require(near_those_of_the_cpu=difference <= limit)


@torch.no_grad()
def _logits(path: Any, device: str, dtype: str, quantize: Any, ids: torch.Tensor) -> torch.Tensor:
    model, _ = aprnb.load(path, device=device, dtype=dtype, quantize=quantize)
    return model(ids.to(model.device), use_cache=False).logits.float().cpu()


CHECKS = {"environment": environment, "devices": devices, "free_memory": free_memory, "decoders": decoders,
          "nf4_codes": nf4_codes, "logits": logits}  # fmt: skip
