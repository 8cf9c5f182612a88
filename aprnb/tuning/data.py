"""Training data: rows read and split, and rows as labelled token ids (no torch)."""

from aprnb.tuning.examples import Example, Examples, encode_rows
from aprnb.tuning.rows import Message, Row, RowSet, read_rows, split_rows

__all__ = ["Example", "Examples", "Message", "Row", "RowSet", "encode_rows", "read_rows", "split_rows"]
