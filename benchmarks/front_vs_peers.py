"""Opening an 8B-shaped file with a 152k vocabulary, compared with `apr inspect` and the `gguf` reader; a table of
31,337 tensors, compared with the `safetensors` package.

python benchmarks/front_vs_peers.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from math import prod
from pathlib import Path

import gguf
from safetensors import safe_open

import aprnb
from aprnb.inspection.tables import tensor_table
from record import HERE, apr_binary, machine, save, spread

sys.path.insert(0, str(HERE.parent / "tests"))
from aprnb_tests import gguf_bytes as g
from aprnb_tests import safetensors_bytes, story

ROUNDS, GGUF_ROUNDS, MANY = 9, 3, 31_337
METHOD = (
    f"Median of {ROUNDS} rounds in turn ({GGUF_ROUNDS} of the gguf package). In process and warm: open, architecture, "
    "contract of 399 tensors, and the table of 31,337, since that is how a notebook uses them; `aprnb inspect` is the "
    "same as a process with Python's start, like `apr inspect`, which checks no contract. The peers list tensors only; "
    "`apr`, GGUFReader and safe_open have no setting that makes them faster here (`apr inspect` was tried with and "
    "without --json). Each round asserts the number of tensors, ours also a green contract. Limits: reading the bytes "
    "before the tensors' data, and parsing the metadata's JSON alone with json.loads."
)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def same_as_gguf(path: Path) -> Path:
    """The story's model as GGUF: the same vocabulary, merges and shapes over a hole."""
    metadata = story.metadata()
    pairs = [
        g.pair("general.architecture", g.STRING, "qwen3"),
        *(g.pair(f"qwen3.{key}", g.U32, value) for key, value in {
            "block_count": 36, "embedding_length": 4096, "attention.head_count": 32, "attention.head_count_kv": 8,
            "attention.key_length": 128, "feed_forward_length": 12288, "context_length": 40960,
        }.items()),
        g.pair("qwen3.rope.freq_base", g.F32, 1e6),
        g.pair("qwen3.attention.layer_norm_rms_epsilon", g.F32, 1e-6),
        g.pair("tokenizer.ggml.model", g.STRING, "gpt2"),
        g.pair("tokenizer.ggml.pre", g.STRING, "qwen2"),
        g.pair("tokenizer.ggml.tokens", g.ARRAY, (g.STRING, metadata["tokenizer.vocabulary"])),
        g.pair("tokenizer.ggml.merges", g.ARRAY, (g.STRING, metadata["tokenizer.merges"])),
    ]  # fmt: skip
    from aprnb.architecture import FAMILIES

    names = {rule.name: rule.gguf for rule in FAMILIES["qwen3"].tensors}
    infos, offset = [], 0
    for name, shape in story.shapes().items():
        layer = name.split(".")[2] if ".layers." in name else ""
        pattern = name.replace(f".layers.{layer}.", ".layers.{layer}.") if layer else name
        kind, size = (0, 4) if len(shape) == 1 else (30, 2)
        infos.append(g.info(names[pattern].format(layer=layer), shape[::-1], kind, offset))
        offset += -(-prod(shape) * size // 32) * 32
    front = g.whole(pairs, infos)
    with path.open("wb") as file:
        file.write(front)
        file.truncate(len(front) + offset)
    return path


def ours(path: Path) -> None:
    checkpoint = aprnb.open(path)
    assert aprnb.check(checkpoint).ok
    assert len(checkpoint) == 399


def by_apr(apr: str, path: Path) -> None:
    run = subprocess.run([apr, "inspect", str(path), "--json", "--offline"], capture_output=True, check=True)
    assert json.loads(run.stdout)["tensor_count"] == 399


def by_process(path: Path) -> None:
    run = subprocess.run([sys.executable, "-m", "aprnb", "inspect", str(path), "--json"], capture_output=True)
    document = json.loads(run.stdout)
    assert document["contract"]["ok"]
    assert len(document["tensors"]) == 399


def by_gguf(path: Path) -> None:
    assert len(gguf.GGUFReader(path).tensors) == 399


def table(path: Path) -> None:
    report = aprnb.inspect(path)
    assert len(tensor_table(report.checkpoint, report.contract).rows) == MANY


def by_safetensors(path: Path) -> None:
    with safe_open(path, "np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  no mapping
        found = [(name, one.get_shape(), one.get_dtype()) for name, one in slices.items()]
    assert len(found) == MANY


def read_front(path: Path) -> Callable[[], object]:
    with aprnb.open(path) as checkpoint:
        size = checkpoint.contents.files[0].data_start

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            assert len(file.read(size)) == size

    return read


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    _, found = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found


def main() -> None:
    apr = apr_binary()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, same = story.write(folder / "8b.apr"), same_as_gguf(folder / "8b.gguf")
        many = folder / "many.safetensors"
        names = [f"model.layers.{n // 100}.mlp.experts.{n % 100}.weight" for n in range(MANY)]
        many.write_bytes(safetensors_bytes.packed({name: ("F32", [1], b"abcd") for name in names}))
        with aprnb.open(path) as checkpoint:
            text = json.dumps(dict(checkpoint.metadata))
        works: dict[str, Callable[[], object]] = {
            "aprnb": lambda: ours(path), "aprnb inspect": lambda: by_process(path),
            "apr inspect": lambda: by_apr(apr, path), "json.loads": lambda: json.loads(text),
            "aprnb, GGUF": lambda: ours(same), "aprnb, 31,337": lambda: table(many),
            "safetensors, 31,337": lambda: by_safetensors(many), "front": read_front(path),
            "front, GGUF": read_front(same), "front, 31,337": read_front(many),
        }  # fmt: skip
        rounds: dict[str, list[float]] = {key: [] for key in (*works, "gguf reader")}
        for work in works.values():
            work()
        for _ in range(ROUNDS):
            for key, work in works.items():
                rounds[key].append(seconds(work))
        for _ in range(GGUF_ROUNDS):
            rounds["gguf reader"].append(seconds(lambda: by_gguf(same)))
        memory = peak(works["aprnb"])
    found = {key: spread(values) for key, values in rounds.items()}
    document = {"question": "Open: 8B-shaped with a 152k vocabulary; 31,337 tensors", "method": METHOD,
                "machine": machine(), "seconds": found, "peak_bytes": memory}  # fmt: skip
    middle = {key: value["median"] for key, value in found.items()}

    def ms(key: str) -> str:
        return f"{1000 * middle[key]:.1f} ms"

    def row(file: str, mine: str, peer: str, front: str, *more: str) -> list[str]:
        times = f"{middle[peer] / middle[mine]:.2f}"
        return [file, ms(mine), f"{peer} {ms(peer)}", times, ms(front), *(more or ("", ""))]

    rows = [
        row("8B-shaped .apr", "aprnb", "apr inspect", "front", ms("json.loads"), f"{memory / 1e6:.0f} MB"),
        row("the same, both as processes", "aprnb inspect", "apr inspect", "front"),
        row("the same as GGUF", "aprnb, GGUF", "gguf reader", "front, GGUF"),
        row("31,337 tensors", "aprnb, 31,337", "safetensors, 31,337", "front, 31,337"),
    ]
    save("front_vs_peers", document,
         ["file", "aprnb", "peer", "times faster", "bytes alone", "JSON alone", "peak"], rows)  # fmt: skip


if __name__ == "__main__":
    main()
