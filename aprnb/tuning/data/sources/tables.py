"""Rows of tables: CSV and TSV text, Parquet files and Arrow streams; untrusted, so no pickle and bounded (no torch)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from aprnb.errors import DataError, UsageProblem
from aprnb.tuning.data.row_values import BadRow

Numbered = Iterator[tuple[str, Any]]
_BATCH_ROWS = 256
_OLDEST_PYARROW = 15
"""Earlier versions can run code that a file contains (CVE-2023-47248)."""


def csv_rows(text: str, name: str, *, tabs: bool, most_bytes: int) -> Numbered:
    """The rows below a header, with their line; empty cells are left out.

    Columns are separated by commas, or by semicolons where the header has no comma, or by tabs.
    """
    header_line = text.partition("\n")[0]
    delimiter = "\t" if tabs else ";" if "," not in header_line and ";" in header_line else ","
    usual = csv.field_size_limit(most_bytes)  # a limit of the process: 128 KiB are less than a long answer
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return iter(list(_below_header(reader, name)))
    except csv.Error as problem:
        raise DataError(f"{name} is not CSV: {problem}", where=f"line {reader.line_num}") from None
    finally:
        csv.field_size_limit(usual)


def _below_header(reader: Any, name: str) -> Numbered:
    header: list[str] = next(reader, [])
    twice = next((column for at, column in enumerate(header) if column in header[:at]), None)
    if twice is not None:
        raise DataError(f"{name} has two columns {twice[:60]!r}", action="rename one")
    line = reader.line_num + 1
    for cells in reader:
        if len(cells) != len(header) and cells:
            columns = "1 column" if len(header) == 1 else f"{len(header)} columns"
            yield f"{name} line {line}", BadRow(f"{len(cells)} cells, but the header has {columns}")
        elif cells:
            filled = zip(header, cells, strict=True)
            yield f"{name} line {line}", {column: cell for column, cell in filled if cell}
        line = reader.line_num + 1


def parquet_rows(raw: bytes, name: str, most_bytes: int) -> Numbered:
    """The rows of a Parquet file; raises UsageProblem without pyarrow."""
    pyarrow = _pyarrow(name)
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(raw))
        yield from _batch_rows(file.iter_batches(batch_size=_BATCH_ROWS), name, most_bytes)
    except (pyarrow.ArrowException, OSError) as problem:
        raise _damaged(name, "a Parquet file", problem) from None


def arrow_rows(raw: bytes, name: str, most_bytes: int) -> Numbered:
    """The rows of an Arrow stream, as `datasets` saves them; raises UsageProblem without pyarrow."""
    pyarrow = _pyarrow(name)
    from pyarrow import ipc

    try:
        yield from _batch_rows(ipc.open_stream(io.BytesIO(raw)), name, most_bytes)
    except (pyarrow.ArrowException, OSError) as problem:
        raise _damaged(name, "an Arrow stream", problem) from None


def _batch_rows(batches: Iterable[Any], name: str, most_bytes: int) -> Numbered:
    at, size_bytes = 0, 0
    for batch in batches:
        batch.validate(full=True)  # offsets that lead out of a buffer
        size_bytes += batch.nbytes
        if size_bytes > most_bytes:
            raise DataError(f"{name} holds more than {most_bytes:,} bytes of rows", action="give fewer rows")
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                at += 1
                yield f"{name} row {at}", row


def _damaged(name: str, what: str, problem: Exception) -> DataError:
    return DataError(f"{name} cannot be read as {what}: {str(problem).splitlines()[0][:200]}", action="write it again")


def _pyarrow(name: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UsageProblem(f"{name} needs pyarrow, which is not installed", action="pip install pyarrow") from None
    if int(pyarrow.__version__.partition(".")[0]) < _OLDEST_PYARROW:
        action = 'pip install -U "pyarrow>=15"'
        raise UsageProblem(f"pyarrow {pyarrow.__version__} can run code that is in a file", action=action)
    return pyarrow
