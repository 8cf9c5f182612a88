"""The figures of `results/` as the one table of docs/benchmarks.md: each kind of work, its peer, and its limit.

python benchmarks/table.py     writes the table into the page
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEADER = ("work", "peer", "ours", "its", "ours / its", "physical limit", "ours / limit")
MARK = "<!-- the table below is written by benchmarks/table.py -->\n"


def result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.{0 if value >= 0.01 else 1}f} ms"


def row(work: str, peer: str, ours: float, its: float | None, limit: str, least: float) -> list[str]:
    peers = [seconds(its), f"{ours / its:.2f}"] if its else ["writes none", ""]
    times = ours / least
    return [work, peer, seconds(ours), *peers, f"{limit}: {seconds(least)}", f"{times:,.{0 if times >= 10 else 1}f}"]


def opening() -> list[list[str]]:
    took = {key: value["median"] for key, value in result("front_vs_peers")["seconds"].items()}
    limit = "read the bytes before the data"
    return [
        row(work, peer, took[mine], took[its], limit, took[front])
        for work, peer, mine, its, front in (
            ("open an 8B-shaped .apr and check its contract", "`apr inspect`", "aprnb", "apr inspect", "front"),
            ("the same, both as processes", "`apr inspect`", "aprnb inspect", "apr inspect", "front"),
            ("the same as GGUF", "`gguf` reader", "aprnb, GGUF", "gguf reader", "front, GGUF"),
            ("table of 31,337 tensors (safetensors)", "`safetensors` loop", "aprnb, 31,337", "safetensors, 31,337",
             "front, 31,337"),
        )
    ]  # fmt: skip


def decoding() -> list[list[str]]:
    rows = []
    for name, found in result("decode_vs_gguf")["results"].items():
        took = {key: value["median"] for key, value in found.items()}
        for dtype, copied in (("F32", took["copy"]), ("BF16", took["copy"] / 2)):
            work = f"decode {name} of 4096×4096 to {dtype}"
            rows.append(row(work, "`gguf.quants` at its best", took[dtype], took["gguf"], "copy the result", copied))
    return rows


def quantising() -> list[list[str]]:
    rows = []
    for name, found in result("quantise_vs_apr")["seconds"].items():
        took = {key: value["median"] for key, value in found.items()}
        work = f"quantise 7 × 4096×4096 to {name}"
        rows.append(row(work, "`apr convert`", took["aprnb"], took.get("apr"), "`cp` of the file", took["copy"]))
    return rows


def values() -> list[list[str]]:
    took = result("values_vs_apr")["seconds"]
    return [row("look at every value, 4.6 GB of Q4_K", "`apr validate`", took["aprnb"], took["apr"],
                "`cat` of the file", took["read"])]  # fmt: skip


def loading() -> list[list[str]]:
    found = result("load_vs_transformers")
    took = {kind: each["seconds"]["median"] for kind, each in found["rounds"].items()}
    return [
        row(f"0.6 B parameters from {kind} to NF4", "transformers + bitsandbytes", took[kind], took["transformers"],
            "`cat` of the file", found["reading alone"][kind]["median"])
        for kind in ("BF16", "Q4_K")
    ]  # fmt: skip


def exporting() -> list[list[str]]:
    took = {key: value["median"] for key, value in result("export_vs_apr")["seconds"].items()}
    return [row(".apr to safetensors, 1 GB", "`apr export`", took["aprnb"], took["apr"],
                "`cp` of the file", took["copy"])]  # fmt: skip


def table() -> str:
    rows = [*opening(), *decoding(), *quantising(), *values(), *loading(), *exporting()]
    compared = "".join(f"| {' | '.join(cells)} |\n" for cells in (HEADER, ["---"] * len(HEADER), *rows))
    conversions = (RESULTS / "conversions.md").read_text(encoding="utf-8")
    return f"{compared}\n#{conversions}"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.split(MARK)[0] + MARK + "\n" + table(), encoding="utf-8")


if __name__ == "__main__":
    main()
