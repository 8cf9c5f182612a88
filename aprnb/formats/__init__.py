"""Reading and writing checkpoints: `Checkpoint`, its tensor entries, and the writers."""

from aprnb.formats.apr.header import Header
from aprnb.formats.apr.writer import TensorSource, write_apr
from aprnb.formats.checkpoint import Checkpoint, open_checkpoint
from aprnb.formats.contents import TensorEntry
from aprnb.formats.dtypes import DType

open = open_checkpoint
"""The public name, `aprnb.open`; modules of the package import `open_checkpoint`, so that `open` stays Python's."""

__all__ = ["Checkpoint", "DType", "Header", "TensorEntry", "TensorSource", "open", "open_checkpoint", "write_apr"]
