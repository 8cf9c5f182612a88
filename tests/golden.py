"""What the commands write and print today, so that a change of structure can be shown to change nothing else.

    python tests/golden.py golden.json [--fixtures FOLDER] [--part 1/2]
    python tests/golden.py --compare before.json after.json

The first form converts every fixture and a tiny model of every family to the four formats in all dtypes, inspects,
checks and plans them, fine-tunes them (LoRA, QLoRA, full; seeded, one thread), merges the adapters, and stores hashes
of the written bytes, the `--json` documents, the losses and the saved states, without seconds, speeds and memory.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
SUFFIXES = (".apr", ".gguf", ".safetensors", "-folder")
DTYPES = (None, "f32", "f16", "bf16", "q8", "q4", "q4_k", "q6_k")
VARYING = {
    "seconds", "elapsed_s", "tokens_per_s", "peak_memory_bytes", "memory_available_bytes", "created", "versions",
}  # fmt: skip
ROWS = [
    {"instruction": f"Say the number {number}", "response": "one " * (number % 5 + 1) + "and done."}
    for number in range(12)
]
TRAINING = (
    "--data", "rows.jsonl", "--max-steps", "3", "--batch-size", "4", "--eval-every", "2", "--device", "cpu", "--dtype",
    "float32", "--max-seq-len", "64", "--rank", "4",
)  # fmt: skip
FULL = (*TRAINING[:-2], "--method", "full")
Case = tuple[str, Callable[[], Any]]


def command(*words: str) -> dict[str, Any]:
    """Exit code and document of one command, run in this process."""
    from aprnb.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = main([*words, "--json"])
    return {"exit": code, "document": without_varying(json.loads(out.getvalue()))}


def without_varying(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_varying(inner) for key, inner in value.items() if key not in VARYING}
    if isinstance(value, str):
        return re.sub(r" of [\d.]+ GiB( free)?$", "", value)  # of free memory
    return [without_varying(inner) for inner in value] if isinstance(value, list) else value


def written(path: Path) -> dict[str, Any]:
    """Every file below `path` (or the file): JSON as documents, anything else as a hash."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
    return {str(file): content(file) for file in files if file.is_file()}


def content(file: Path) -> Any:
    if file.suffix in (".json", ".jsonl"):
        texts = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
        return without_varying([json.loads(text) for text in texts])
    return hashlib.sha256(file.read_bytes()).hexdigest()


def remove(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def looked_at(source: Path) -> dict[str, Any]:
    plan = command("plan", str(source), *TRAINING)
    return {
        "inspect": command("inspect", str(source), "--verify", "--stats"),
        "check": command("check", str(source)),
        "plan": plan,
    }


def converted(source: Path, suffix: str, dtype: str | None) -> dict[str, Any]:
    target = Path("converted" + suffix)
    remove(target)
    result = command("convert", str(source), str(target), *(["--dtype", dtype] if dtype else []))
    return {**result, "written": written(target)}


def tuned(source: Path, *options: str) -> dict[str, Any]:
    remove(Path("tuned.apr"), Path("tuned.run"), Path("tuned.adapter"))
    result = command("finetune", str(source), *options, "--output", "tuned.apr")
    files = {str(path): written(path) for path in map(Path, ("tuned.apr", "tuned.run", "tuned.adapter"))}
    return {**result, "written": files, "merged": merged(source)}


def merged(source: Path) -> dict[str, Any]:
    if not Path("tuned.adapter").exists():
        return {}
    found = {}
    for dtype in (None, "F32", "F16", "BF16"):
        target = Path("merged.apr")
        remove(target)
        result = command(
            "merge", str(source), "tuned.adapter", "-o", str(target), *(["--output-dtype", dtype] if dtype else [])
        )
        found[str(dtype)] = {**result, "written": written(target)}
    return found


def family_sources(folder: Path) -> Iterator[Path]:
    """Folders of tiny models of every family, with the pocket model's tokenizer; and one of each as an `.apr`."""
    import aprnb
    from aprnb_tests import families

    _, tokenizer = aprnb.load(DATA / "real" / "pocket-qwen2.apr", device="cpu")
    for family in families.SPECIAL:
        families.saved(family, folder / family, vocabulary=1024)
        tokenizer.save_pretrained(folder / family)
        yield folder / family
        aprnb.convert(folder / family, folder / f"{family}.apr")
        yield folder / f"{family}.apr"


def cases(fixtures: Path | None, folder: Path) -> Iterator[Case]:
    files = [
        *DATA.rglob("*.apr"),
        *(fixtures.rglob("*.apr") if fixtures else ()),
        *(fixtures.rglob("*.gguf") if fixtures else ()),
    ]
    Path("sources").mkdir()
    for source in sorted({Path(shutil.copy(file, "sources")) for file in files}, key=str):
        yield f"looked at {source.name}", lambda source=source: looked_at(source)
        for suffix in SUFFIXES:
            for dtype in DTYPES if source.name in ("pocket-qwen3.apr", "llama-q4k.apr") else DTYPES[:1]:
                name = f"{source.name} as {suffix} {dtype}"
                yield name, lambda source=source, suffix=suffix, dtype=dtype: converted(source, suffix, dtype)
        for method, options in (("lora", TRAINING), ("qlora", (*TRAINING, "--quantize-nf4")), ("full", FULL)):
            yield f"{source.name} tuned {method}", lambda source=source, options=options: tuned(source, *options)
    for source in family_sources(folder):
        yield f"looked at {source.name}", lambda source=source: looked_at(source)
        for suffix in SUFFIXES:
            for dtype in DTYPES if source.suffix else DTYPES[:1]:
                name = f"{source.name} as {suffix} {dtype}"
                yield name, lambda source=source, suffix=suffix, dtype=dtype: converted(source, suffix, dtype)
        for method, options in (("lora", TRAINING), ("qlora", (*TRAINING, "--quantize-nf4")), ("full", FULL)):
            if source.suffix:
                yield f"{source.name} tuned {method}", lambda source=source, options=options: tuned(source, *options)


def make(target: Path, fixtures: Path | None, part: str) -> None:
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    number, parts = map(int, part.split("/"))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
        for place, (name, run) in enumerate(cases(fixtures, Path("families"))):
            if place % parts == number - 1:
                found[name] = run()
        os.chdir(target.parent)
    target.write_text(json.dumps(found, indent=1, sort_keys=True))
    print(f"{len(found)} cases in {target}")


def compare(before: Path, after: Path) -> int:
    old, new = (without_varying(json.loads(path.read_text())) for path in (before, after))
    different = [line for name in sorted({*old, *new}) for line in differences(name, old.get(name), new.get(name))]
    print("\n".join(different) or f"{len(old)} cases are equal")
    return bool(different)


def differences(where: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(f"{where} · {key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(f"{where} · {number}", one, other)
    elif old != new:
        yield f"{where}\n  - {old!r:.300}\n  + {new!r:.300}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--fixtures", type=Path)
    parser.add_argument("--part", default="1/1")
    given = parser.parse_args()
    if given.compare:
        sys.exit(compare(*given.paths))
    make(given.paths[0].resolve(), given.fixtures and given.fixtures.resolve(), given.part)
