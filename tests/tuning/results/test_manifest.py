"""`manifest.json` holds the hashes of what a run read and wrote, computed here again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import aprnb


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_manifest_has_the_hash_of_every_input_and_output(pocket_qwen3: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in ("cow", "hen", "fish", "goat")]
    options = {"method": "lora", "rank": 2, "max_steps": 1, "batch_size": 4, "val_split": 0, "device": "cpu"}
    aprnb.finetune(pocket_qwen3, data=rows, output=str(tmp_path / "out.apr"), **options)
    found = json.loads((tmp_path / "out.run" / "manifest.json").read_text())
    assert found["base"]["sha256"] == sha256(pocket_qwen3.read_bytes())
    template = aprnb.load(pocket_qwen3, device="cpu")[1].chat_template
    assert found["chat_template"]["sha256"] == sha256(template.encode())
    written = [tmp_path / "out.apr", *sorted((tmp_path / "out.adapter").iterdir())]
    assert len(written) == 4
    assert found["files"] == {path.relative_to(tmp_path).as_posix(): sha256(path.read_bytes()) for path in written}
