"""A model's weights out of a file: under the model's names, in the model's row order, as float32."""

from __future__ import annotations

import numpy as np

from aprnb.architecture.architecture import expected_tensors
from aprnb.architecture.contract import ContractReport
from aprnb.architecture.names import uses_gguf_names
from aprnb.formats import Checkpoint


def head_order(report: ContractReport) -> dict[str, int]:
    """Model names of the projections whose rows the file holds permuted → their head count; empty for most files."""
    architecture = report.architecture
    if not (architecture.family.permutes_in_gguf and uses_gguf_names(report.weights.values())):
        return {}
    return {
        name: getattr(architecture, tensor.rule.rotated_heads)
        for name, tensor in expected_tensors(architecture).items()
        if tensor.rule.rotated_heads
    }


def unpermute(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows in GGUF's interleaved pairs back to split halves, per head: the inverse of llama.cpp's conversion.

    `values` is [heads · head_dim, …]; row 2i + j of a head is row j · head_dim/2 + i of the result.
    """
    half = values.shape[0] // heads // 2
    return values.reshape(heads, half, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def read_weight(checkpoint: Checkpoint, report: ContractReport, name: str) -> np.ndarray:
    """The model's weight `name` as float32, decoded from whichever tensor of the file plays that part."""
    values = checkpoint[report.weights[name]]
    heads = head_order(report).get(name)
    return np.ascontiguousarray(unpermute(values, heads)) if heads else values
