"""Statistics of the tensors' values: range, mean, standard deviation, zeros, NaN and infinite values.

Each tensor is decoded part by part, so that a file of any size needs some tens of MiB.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aprnb.display.bundle import Displayed
from aprnb.display.document import Block, Column, Document, Messages, Paragraph, Table
from aprnb.errors import AprnbError
from aprnb.formats import Checkpoint
from aprnb.formats.codecs import decode
from aprnb.formats.codecs.arrays import Floats
from aprnb.formats.codecs.decoding import decoder_of
from aprnb.formats.dtypes import DType
from aprnb.formats.values import encoded_parts
from aprnb.inspection.tables import data_frame
from aprnb.phases import Counted, OnPhase, silent
from aprnb.printable import first_names

if TYPE_CHECKING:
    from pandas import DataFrame

_PART, _SMALL, _SLICE = 1 << 19, 1 << 18, 1 << 16
"""Elements: of a part, decoded by one thread; of one summed in float64; of a slice that stays in a core's cache."""
_COLUMNS = (
    Column("tensor"),
    *(Column(name, "right") for name in ("elements", "minimum", "maximum", "mean", "std", "zeros", "NaN", "infinite")),
)
_THREADS = min(2, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """One tensor's values; minimum, maximum, mean and std (population) are those of its finite elements.

    They are None for a tensor without finite elements. `zeros`, `nan` and `infinite` count elements.
    """

    name: str
    elements: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    zeros: int
    nan: int
    infinite: int

    @property
    def ok(self) -> bool:
        """Whether all elements are finite."""
        return not (self.nan or self.infinite)


@dataclass(frozen=True)
class Statistics(Displayed):
    """The statistics of every tensor that has bytes.

    Attributes:
        path: the file or folder.
        rows: one `TensorStatistics` for each tensor that can be decoded, in the file's order.
        not_decoded: name of each other tensor that has bytes → why it is not decoded.
    """

    path: str
    rows: tuple[TensorStatistics, ...]
    not_decoded: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether all values are finite."""
        return all(row.ok for row in self.rows)

    @property
    def damaged(self) -> tuple[TensorStatistics, ...]:
        """The rows with NaN or infinite values."""
        return tuple(row for row in self.rows if not row.ok)

    @property
    def df(self) -> DataFrame:
        """The rows as a pandas DataFrame."""
        return data_frame(self.to_json()["tensors"])

    def to_json(self) -> dict[str, Any]:
        """Verdict, rows, and what is not decoded."""
        tensors = [asdict(row) for row in self.rows]
        return {"ok": self.ok, "tensors": tensors, "not_decoded": dict(self.not_decoded)}

    def document(self) -> Document:
        """Verdict, the damaged tensors, those that are not decoded, and a table of all."""
        found = f"{len(self.damaged)} of {len(self.rows)} tensors hold NaN or infinite values"
        blocks: list[Block] = [Paragraph(f"all {len(self.rows)} tensors hold finite values" if self.ok else found)]
        if not self.ok:
            named = tuple(f"{row.name}: {row.nan:,} NaN, {row.infinite:,} infinite" for row in self.damaged)
            blocks.append(Messages("error", named))
        return Document("Values", "ok" if self.ok else "failed", (*blocks, *values_blocks(self)))


def values_blocks(statistics: Statistics) -> list[Block]:
    """How many tensors are not decoded, each reason once, and a table with one row for each other tensor."""
    names: dict[str, list[str]] = {}
    for name, why in statistics.not_decoded.items():
        names.setdefault(why, []).append(name)
    notes = tuple(f"{why}: {first_names(each, 3)}" for why, each in names.items())
    table = Table("Values", _COLUMNS, tuple(map(astuple, statistics.rows)))
    return [Messages("warning", notes), table] if notes else [table]


@dataclass
class _Sums:
    """Running sums over the parts of one tensor."""

    elements: int = 0
    finite: int = 0
    total: float = 0.0
    squares: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    zeros: int = 0
    nan: int = 0

    def add(self, other: _Sums) -> None:
        self.elements += other.elements
        self.finite += other.finite
        self.total += other.total
        self.squares += other.squares
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self.zeros += other.zeros
        self.nan += other.nan

    def finished(self, name: str) -> TensorStatistics:
        infinite = self.elements - self.finite - self.nan
        if not self.finite:
            return TensorStatistics(name, self.elements, None, None, None, None, self.zeros, self.nan, infinite)
        mean = self.total / self.finite
        std = math.sqrt(max(0.0, self.squares / self.finite - mean * mean))
        return TensorStatistics(
            name, self.elements, self.minimum, self.maximum, mean, std, self.zeros, self.nan, infinite
        )


def tensor_statistics(
    checkpoint: Checkpoint,
    names: Iterable[str] | None = None,
    on_phase: OnPhase = silent,
) -> Statistics:
    """Decode tensors and examine every value.

    Args:
        checkpoint: an open checkpoint.
        names: of the tensors; all that have bytes unless given.
        on_phase: called with the number of tensors done.

    Returns:
        The `Statistics`.

    Raises:
        TruncatedFile: the file became shorter since it was opened.
    """
    wanted = [name for name in (checkpoint.tensors if names is None else names) if checkpoint.entry(name).size_bytes]
    not_decoded = {name: why for name in wanted if (why := _why_not_decoded(checkpoint.tensors[name].dtype))}
    chosen = [name for name in wanted if name not in not_decoded]
    sums: Mapping[str, _Sums] = {name: _Sums() for name in chosen}
    count = Counted(on_phase, "decoding", len(chosen))
    for name, found in _measured(checkpoint, chosen):
        sums[name].add(found)
        if sums[name].elements == checkpoint.tensors[name].elements:
            count()
    rows = tuple(sums[name].finished(name) for name in chosen)
    return Statistics(str(checkpoint.path), rows, not_decoded)


@lru_cache
def _why_not_decoded(dtype: DType) -> str | None:
    if dtype.name == "AprQ8":  # decoded with the scale of its tensor, not block by block
        return None
    try:
        decoder_of(dtype)
    except AprnbError as error:
        return error.found
    return None


def _measured(checkpoint: Checkpoint, names: Iterable[str]) -> Iterator[tuple[str, _Sums]]:
    """The parts' sums in their order; threads decode and sum parts while the next one is read."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: deque[tuple[str, Future[_Sums]]] = deque()
        for name in names:
            dtype = checkpoint.tensors[name].dtype
            for raw, shape in encoded_parts(checkpoint, name, _PART):
                waiting.append((name, pool.submit(_sums, raw, dtype, shape)))
                if len(waiting) > 2 * _THREADS:
                    first, future = waiting.popleft()
                    yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _sums(raw: bytearray, dtype: DType, shape: tuple[int, ...]) -> _Sums:
    """Decode a part and sum it slice by slice, so that the passes after the first find a slice in the core's cache."""
    values, found = decode(raw, dtype, shape).reshape(-1), _Sums()
    with np.errstate(all="ignore"):
        for start in range(0, values.size, _SLICE):
            found.add(_slice_sums(values[start : start + _SLICE], exact=values.size < _SMALL))
    return found


def _slice_sums(values: Floats, exact: bool) -> _Sums:
    """`exact` sums in float64: the variance of a norm's weights, far from 0, is a difference of large sums."""
    wide = values.astype(np.float64) if exact else values
    squares = float(np.dot(wide, wide))  # NaN or infinite where any value is, or where squares overflow
    if math.isfinite(squares):
        return _finite_sums(values, values.size, squares, nan=0)
    finite = values[np.isfinite(values)].astype(np.float64)
    return _finite_sums(finite, values.size, float(np.dot(finite, finite)), nan=int(np.isnan(values).sum()))


def _finite_sums(values: NDArray[Any], elements: int, squares: float, nan: int) -> _Sums:
    if not values.size:
        return _Sums(elements=elements, nan=nan)
    return _Sums(
        elements=elements,
        finite=values.size,
        total=float(values.sum()),
        squares=squares,
        minimum=float(values.min()),
        maximum=float(values.max()),
        zeros=int(np.count_nonzero(values == 0)),  # of booleans: four times as fast as of floats
        nan=nan,
    )
