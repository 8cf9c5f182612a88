"""Memory goes back to the system: what glibc keeps of freed blocks, in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FREED = """
import sys
import numpy as np
from aprnb.model.heap import return_large_blocks
from aprnb.tuning.planning.memory_use import process_bytes
if sys.argv[1] == "returned":
    return_large_blocks()
np.ones(20 << 20, np.uint8)  # a freed block of this size raises glibc's limit above that of the next ones
before = process_bytes()
kept, large = [], []
for _ in range(100):
    large.append(np.ones(2 << 20, np.uint8))
    kept.append(np.ones(100 << 10, np.uint8))
del large
print(process_bytes() - before >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's heap")
@pytest.mark.parametrize(("how", "at_least", "at_most"), [("returned", 0, 20), ("as usual", 150, 250)])
def test_large_blocks_between_small_ones_are_returned(how: str, at_least: int, at_most: int) -> None:
    run = subprocess.run([sys.executable, "-c", FREED, how], capture_output=True, text=True, check=True)
    assert at_least <= int(run.stdout) <= at_most
