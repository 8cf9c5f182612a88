"""A few kills of a run, as `make torture` does hundreds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="forks and SIGKILL")
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(repository: Path) -> None:
    words = [sys.executable, str(repository / "tests" / "torture" / "run.py"), "--count", "6", "--seed", "3"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything as without a kill" in done.stdout
