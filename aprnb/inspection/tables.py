"""A checkpoint's tensors as tables: one by one, and summed up by layer and by dtype."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aprnb.architecture import ContractReport
from aprnb.architecture.names import layer_of
from aprnb.display.document import Column, Table
from aprnb.errors import MissingExtra
from aprnb.formats import Checkpoint, TensorEntry

if TYPE_CHECKING:
    from pandas import DataFrame

_SHARE_COLUMNS = (Column("tensors", "right"), Column("parameters", "right"), Column("bytes", "right"))
_TENSOR_COLUMNS = (
    Column("name"),
    Column("dtype"),
    Column("shape"),
    Column("bytes", "right"),
    Column("symbolic shape"),
    Column("offset", "right"),
)


@dataclass(frozen=True, slots=True)
class Share:
    """Part of the file: tensors, elements and bytes of one layer or one dtype."""

    name: str
    tensors: int
    parameters: int
    size_bytes: int
    dtypes: tuple[str, ...]


def shares_by_layer(entries: Iterable[TensorEntry]) -> tuple[Share, ...]:
    """What is outside the layers, then layer by layer."""
    groups: dict[int | None, list[TensorEntry]] = {}
    for entry in entries:
        groups.setdefault(layer_of(entry.name), []).append(entry)
    order = sorted(groups, key=lambda layer: -1 if layer is None else layer)
    return tuple(_share("outside layers" if layer is None else f"layer {layer}", groups[layer]) for layer in order)


def shares_by_dtype(entries: Iterable[TensorEntry]) -> tuple[Share, ...]:
    """Largest share of the bytes first."""
    groups: dict[str, list[TensorEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.dtype.name, []).append(entry)
    shares = (_share(name, group) for name, group in groups.items())
    return tuple(sorted(shares, key=lambda share: -share.size_bytes))


def layer_table(shares: Iterable[Share]) -> Table:
    """One row for each share, with its dtypes."""
    columns = (Column("layer"), *_SHARE_COLUMNS, Column("dtypes"))
    return Table("Layers", columns, tuple((*_figures(share), ", ".join(share.dtypes)) for share in shares))


def dtype_table(shares: Iterable[Share]) -> Table:
    """One row for each share."""
    return Table("By dtype", (Column("dtype"), *_SHARE_COLUMNS), tuple(_figures(share) for share in shares))


def tensor_table(checkpoint: Checkpoint, contract: ContractReport | None) -> Table:
    """One row for each tensor, with its symbolic shape where there is a contract."""
    symbolic = {row.tensor: row.arithmetic for row in contract.rows} if contract else {}
    rows = tuple(
        (
            entry.name,
            entry.dtype.name,
            " × ".join(map(str, entry.shape)),
            entry.size_bytes,
            "no bytes: tied to the embedding" if entry.is_tied_placeholder else symbolic.get(entry.name, ""),
            entry.offset,
        )
        for entry in checkpoint.tensors.values()
    )
    return Table("Tensors", _TENSOR_COLUMNS, rows)


def _share(name: str, entries: list[TensorEntry]) -> Share:
    return Share(
        name,
        len(entries),
        sum(entry.elements for entry in entries),
        sum(entry.size_bytes for entry in entries),
        tuple(sorted({entry.dtype.name for entry in entries})),
    )


def _figures(share: Share) -> tuple[str, int, int, int]:
    return share.name, share.tensors, share.parameters, share.size_bytes


def data_frame(rows: list[dict[str, Any]]) -> DataFrame:
    """The rows as a pandas DataFrame; raises MissingExtra without pandas."""
    try:
        import pandas
    except ImportError:
        raise MissingExtra("notebook", "pandas") from None
    return pandas.DataFrame(rows)
