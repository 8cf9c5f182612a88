"""Reads a model's weights from a file: under the model's names, in the model's row order, as float32.

Most weights are an unchanged tensor of the file. A `Reading` describes how any other one is made.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aprnb.architecture.arrangement import Piece
from aprnb.architecture.contract_report import ContractReport
from aprnb.formats import Checkpoint
from aprnb.formats.codecs import decode


def unpermute(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows in GGUF's interleaved pairs back to split halves, per head: the inverse of llama.cpp's conversion.

    `values` is [heads · head_dim, …]; row 2i + j of a head is row j · head_dim/2 + i of the result.
    """
    half = values.shape[0] // heads // 2
    return values.reshape(heads, half, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def read_weight(checkpoint: Checkpoint, report: ContractReport, name: str) -> np.ndarray:
    """The model's weight `name` as float32, decoded from the tensors of the file that make it."""
    reading = report.readings.get(name)
    if reading is None:
        return checkpoint[report.weights[name]]
    pieces = [_piece(checkpoint, piece) for piece in reading.pieces]
    values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)
    values = values.reshape(reading.shape[::-1]).T if reading.transposed else values.reshape(reading.shape)
    if reading.heads:
        values = unpermute(values, reading.heads)
    if reading.shift:
        values = values + np.float32(reading.shift)
    return np.ascontiguousarray(values)


def file_tensors(report: ContractReport) -> Mapping[str, tuple[str, ...]]:
    """Model name → the file's tensors that it is made of."""
    made = {name: tuple(piece.tensor for piece in reading.pieces) for name, reading in report.readings.items()}
    return {name: made.get(name, (tensor,)) for name, tensor in report.weights.items()}


def _piece(checkpoint: Checkpoint, piece: Piece) -> np.ndarray:
    """The piece as a flat array, or in the tensor's own shape where it is whole."""
    if piece.is_whole:
        return checkpoint[piece.tensor]
    entry = checkpoint.tensors[piece.tensor]
    elements, size = entry.elements // piece.count, entry.size_bytes // piece.count
    if entry.dtype.prefix_bytes or elements % entry.dtype.block_elements or size * piece.count != entry.size_bytes:
        whole = checkpoint[piece.tensor].reshape(piece.count, -1)
        return whole[piece.start : piece.stop].reshape(-1)
    slices = piece.stop - piece.start
    raw = checkpoint.read_part(piece.tensor, piece.start * size, slices * size)
    return decode(raw, entry.dtype, (slices * elements,))
