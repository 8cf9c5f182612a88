"""The threat model as files: one small generator for each attack by a checkpoint, with the reason.

`docs/threats.md` lists the same attacks; a test compares the two.
"""

import ways_apr
import ways_bounds
import ways_foreign
import ways_metadata
import ways_paths
import ways_sidecars
from registry import ATTACKS, Attack

__all__ = [
    "ATTACKS",
    "Attack",
    "ways_apr",
    "ways_bounds",
    "ways_foreign",
    "ways_metadata",
    "ways_paths",
    "ways_sidecars",
]
