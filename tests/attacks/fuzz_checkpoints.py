"""Target of the fuzzer: checkpoint files, through opening, architecture, contract, statistics and conversion."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from fuzz_case import Case
from judges import hold_to_bytes
from mutations import mutated

import aprnb
from aprnb.errors import AprnbError
from aprnb.inspection import tensor_statistics

ROOT = Path(__file__).parents[2]
POCKET = ROOT / "notebooks" / "pocket-qwen3.apr"


class Checkpoints:
    """Real files of each format, two of them converted; more where APRNB_FIXTURES names a folder."""

    planted: dict[str, bytes] = {}  # noqa: RUF012  read only

    def __init__(self, folder: Path) -> None:
        found = [POCKET, *sorted((ROOT / "tests" / "data" / "real").glob("*.apr"))]
        found += sorted((ROOT / "tests" / "data" / "foreign").glob("*.apr"))
        aprnb.convert(POCKET, folder / "pocket.gguf", force=True)
        aprnb.convert(POCKET, folder / "hf", force=True)
        found += [folder / "pocket.gguf"] * 5 + [folder / "hf" / "model.safetensors"] * 5
        more = os.environ.get("APRNB_FIXTURES")
        if more:
            found += sorted(Path(more).glob("gguf/*.gguf")) + sorted(Path(more).glob("sources/*/model.safetensors"))
        self._bases = [path for path in found if path.stat().st_size < 2_000_000]
        self._config = folder / "hf" / "config.json"

    def build(self, rng: random.Random, case: Case) -> None:
        base = rng.choice(self._bases)
        if base.suffix == ".safetensors":
            shutil.copyfile(self._config, case.folder / "config.json")
        case.write({f"model{base.suffix}": mutated(rng, base.read_bytes())})

    def examine(self, rng: random.Random, case: Case) -> str:
        [path] = case.folder.glob("model.*")
        with aprnb.open(path) as checkpoint:
            report = aprnb.inspect(checkpoint)
            if rng.random() < 0.1:
                str(report), report.to_html()
            if report.architecture is None:
                return "no architecture"
            hold_to_bytes(checkpoint, path.read_bytes(), green=bool(report.ok))
            case.hold_files()
            if not report.ok:
                return "contract broken"
            try:
                sound = tensor_statistics(checkpoint).ok
                if rng.random() < 0.3:
                    target = path.with_name("converted" + rng.choice((".apr", ".gguf", ".safetensors")))
                    aprnb.convert(checkpoint, target, dtype=rng.choice((None, "f16")), force=True)
            except AprnbError:
                return "values rejected"
            return "green" if sound else "damaged values"
