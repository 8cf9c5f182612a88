"""Two thousand seeded mutations of real files, as `make fuzz` runs them."""

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).with_name("fuzz.py")


def test_two_thousand_mutations_break_nothing():
    run = subprocess.run([sys.executable, str(FUZZ), "--count", "2000", "--seed", "7"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    assert " refused" in run.stdout
    assert " green" in run.stdout  # some mutations leave the file sound: the fuzzer reaches the end of the way
