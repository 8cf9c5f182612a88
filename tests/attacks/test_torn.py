"""Real files cut short: at every 64-byte boundary the first missing byte is named."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import aprnb
from aprnb.errors import AprnbError

DATA = Path(__file__).parents[1] / "data"
SMALL = [DATA / "real" / "pocket-qwen3-int4.apr", DATA / "foreign" / "slice_model.apr", DATA / "real" / "llama-q4k.apr"]
ALL = sorted((DATA / "real").glob("*.apr"))


def torn(path: Path, copy: Path, step: int) -> None:
    """Cuts the copy from its end on; the message's byte is the cut, or after it where padding was cut first."""
    copy.write_bytes(path.read_bytes())
    size = copy.stat().st_size
    footer = size - size % 64  # the four bytes of the footer alone may be missing: nothing verifies them by default
    start = int.from_bytes(copy.read_bytes()[32:40], "little")  # of the data; every boundary before it is cut
    for cut in (*range(footer - 64, start, -step), *range(start, 63, -64)):
        os.truncate(copy, cut)
        with pytest.raises(AprnbError, match=r"ends at byte|first one missing|ends inside") as caught:
            aprnb.open(copy)
        named = {int(found.replace(",", "")) for found in re.findall(r"byte ([\d,]+)", str(caught.value))}
        assert cut in named, str(caught.value)
    for cut in range(1, 64):
        os.truncate(copy, 64)
        os.truncate(copy, cut)
        with pytest.raises(AprnbError):
            aprnb.open(copy)


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_file_cut_at_any_boundary_names_the_first_missing_byte(path, tmp_path):
    torn(path, tmp_path / "x.apr", 64 if path.stem == "slice_model" else 64 * 16)


@pytest.mark.slow
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_boundary_of_every_real_file(path, tmp_path):
    torn(path, tmp_path / "x.apr", 64)
