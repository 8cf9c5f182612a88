"""How fast this machine reads, converts and writes weights: measured on a million elements of each dtype."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from aprnb.architecture import ContractReport
from aprnb.formats import Checkpoint
from aprnb.formats.codecs import decode, encode
from aprnb.formats.dtypes import BY_NAME
from aprnb.formats.values import encoded_parts
from aprnb.tuning.results.written_weights import CACHED_ELEMENTS, compare_sum

_SAMPLE = 1 << 20
_WRITTEN_BYTES = 8 << 20
_USUAL_BYTES_PER_S = 300e6


@dataclass(frozen=True)
class Rates:
    """Seconds per element to decode from and to encode to a dtype of a file, and to compare; bytes written per second.

    A decoded element is also converted to the run's dtype, and looked at for NaN.
    """

    decode: Mapping[str, float]
    encode: Mapping[str, float]
    compare: float
    bytes_per_s: float


def measure_rates(checkpoint: Checkpoint, report: ContractReport, dtype: torch.dtype, folder: Path) -> Rates:
    """The rates for the weights of `checkpoint` in a run that computes in `dtype` and writes into `folder`."""
    by_size = sorted(report.weights.values(), key=lambda name: checkpoint.tensors[name].elements)
    samples = {checkpoint.tensors[name].dtype.name: name for name in by_size}  # of each dtype the largest
    read = {stored: _seconds_each(partial(_decoded, checkpoint, name, dtype)) for stored, name in samples.items()}
    weights = 0.02 * torch.randn(_SAMPLE, generator=torch.Generator().manual_seed(0))
    # The written model has these dtypes, and is read again.
    names = ("F32", "F16", "BF16")
    written = {name: _seconds_each(partial(_encoded, weights, name)) for name in names}
    for name in names:
        if name not in read:
            raw = bytearray(encode(weights.numpy(), BY_NAME[name]))
            read[name] = _seconds_each(partial(_as_weight, raw, name, (_SAMPLE,), dtype))
    part = weights[:CACHED_ELEMENTS]
    compare = _seconds_each(lambda: len(compare_sum(part, part, part, "F16", 1.0)) and len(part))
    return Rates(read, written, compare, _bytes_per_s(folder))


def _decoded(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> int:
    raw, shape = next(encoded_parts(checkpoint, name, _SAMPLE))
    return _as_weight(raw, checkpoint.tensors[name].dtype.name, shape, dtype)


def _as_weight(raw: bytearray, stored: str, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    values = torch.from_numpy(decode(raw, BY_NAME[stored], shape)).to(dtype)
    torch.aminmax(values)
    return values.numel()


def _encoded(values: torch.Tensor, name: str) -> int:
    encode(values.numpy(), BY_NAME[name])
    return len(values)


def _seconds_each(work: Callable[[], int]) -> float:
    """Seconds per element of `work`, which returns how many it had; the shorter of two times."""
    found = []
    for _ in range(2):
        begun = time.perf_counter()
        elements = work()
        found.append((time.perf_counter() - begun) / max(1, elements))
    return min(found)


def _bytes_per_s(folder: Path) -> float:
    """Of a file without a name in the folder, or in the next one above it that exists, as far as the system's cache.

    The disk itself is slower; what a run waits for it is among the fixed costs of a saved state and of the end.
    """
    try:
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:
            begun = time.perf_counter()
            file.write(bytes(_WRITTEN_BYTES))
            file.flush()
            return _WRITTEN_BYTES / (time.perf_counter() - begun)
    except OSError:  # a folder that cannot be written to is an error of its own, in a run
        return _USUAL_BYTES_PER_S
