"""Two thousand seeded mutations of real files, as `make fuzz` runs them, and the judge that they stand before."""

import subprocess
import sys
from pathlib import Path

import pytest
from judges import WrongVerdict, hold_to_bytes

import aprnb

FUZZ = Path(__file__).with_name("fuzz.py")
POCKET = Path(__file__).parents[2] / "notebooks" / "pocket-qwen3.apr"


def test_two_thousand_mutations_break_nothing():
    run = subprocess.run([sys.executable, str(FUZZ), "--count", "2000", "--seed", "7"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    assert " refused" in run.stdout
    assert " green" in run.stdout  # some mutations leave the file sound: the fuzzer reaches the end of the way


@pytest.mark.parametrize("ending", [".apr", ".gguf", ".safetensors"])
def test_the_judge_sees_another_shape_and_other_bytes(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    aprnb.convert(POCKET, path)
    data = path.read_bytes()
    with aprnb.open(path) as checkpoint:
        hold_to_bytes(checkpoint, data, green=True)
        name, entry = next((name, e) for name, e in checkpoint.tensors.items() if len(e.shape) == 2 and e.size_bytes)
        wide = (b'"shape":[%d,%d]' % entry.shape, b'"shape":[%d,%d]' % entry.shape[::-1])
        if ending != ".safetensors":
            order = entry.shape[::-1] if ending == ".gguf" else entry.shape
            wide = tuple(b"".join(n.to_bytes(8, "little") for n in dims) for dims in (order, order[::-1]))
        assert wide[0] in data
        assert entry.shape[0] != entry.shape[1]
        with pytest.raises(WrongVerdict):
            hold_to_bytes(checkpoint, data.replace(*wide), green=True)
        payload = bytes(checkpoint.raw(name))
        with pytest.raises(WrongVerdict, match="other bytes"):
            hold_to_bytes(checkpoint, data.replace(payload, payload[::-1]), green=True)
