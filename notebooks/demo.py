"""`make demo`: runs the first tutorial in a copy of this folder and reports the results.

`python notebooks/demo.py [FOLDER]`; FOLDER is demo/ next to notebooks/ unless given.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent
TUTORIAL = "01-first-run.ipynb"
QUESTIONS = (
    "What is two plus one?",
    "What is two plus one? Ask the cow.",
    "What is the opposite of dark? Ask the cow.",
)
INGREDIENTS = ("*.ipynb", "*.apr", "*.jsonl", "*.csv", "*.toml", "*.json")


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOKS.parent / "demo"
    before = copy_ingredients(folder)
    started = time.monotonic()
    run_tutorial(folder / TUTORIAL)
    made = sorted(path for path in folder.iterdir() if path.name not in before and not path.name.startswith("."))
    tell(folder, made, time.monotonic() - started)
    return 0


def copy_ingredients(folder: Path) -> set[str]:
    """Copies the notebooks folder to `folder`; returns the names of its files before the run."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    sources = [source for pattern in INGREDIENTS for source in NOTEBOOKS.glob(pattern)]
    for source in sources:
        shutil.copy(source, folder / source.name)
    return {source.name for source in sources}


def run_tutorial(path: Path) -> None:
    """Executes the notebook cell by cell and keeps its outputs in place; a failing cell ends the demo."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    print(f"Running {path.name}: {len(cells)} cells", flush=True)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", store_widget_state=False, record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    try:
        with client.setup_kernel():
            for index, cell in enumerate(notebook.cells):
                if cell not in cells:
                    continue
                with clock(f"[{cells.index(cell) + 1}/{len(cells)}] {first_line(cell.source)}"):
                    client.execute_cell(cell, index)
    finally:
        nbformat.write(notebook, path)


def first_line(source: str) -> str:
    line = next(line.strip() for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return line if len(line) <= 70 else f"{line[:69]}…"


@contextmanager
def clock(text: str) -> Iterator[None]:
    """One line per cell; on a terminal its seconds run."""
    started, done = time.monotonic(), threading.Event()

    def line() -> str:
        return f"  {text:<82} {time.monotonic() - started:5.1f} s"

    def tick() -> None:
        while not done.wait(0.5):
            print(f"\r{line()}", end="", flush=True)

    ticking = threading.Thread(target=tick, daemon=True)
    if sys.stdout.isatty():
        ticking.start()
    try:
        yield
    finally:
        done.set()
        if ticking.is_alive():
            ticking.join()
        print(f"\r{line()}" if sys.stdout.isatty() else line(), flush=True)


def tell(folder: Path, made: list[Path], seconds: float) -> None:
    here = Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    print(f"\nDone in {seconds:.0f} s. In {shown}/:")
    print(f"  {TUTORIAL:<34} the tutorial with what it showed")
    for path in made:
        print(f"  {path.name + ('/' if path.is_dir() else ''):<34} {meaning(path)}")
    for output in [path for path in made if path.suffix == ".apr"][:1]:
        compare_answers(folder, output)
    print("\nTo look at it: make lab   (opens JupyterLab; the tutorial is 01-first-run.ipynb)")


def meaning(path: Path) -> str:
    kinds = {
        ".apr": f"the tuned model, {path.stat().st_size / 2**20:.1f} MiB",
        ".adapter": "its LoRA adapter alone, in PEFT's layout",
        ".run": "plan, metrics, saved state and manifest of the run",
    }
    return kinds.get(path.suffix, "made on the way")


def compare_answers(folder: Path, output: Path) -> None:
    """Asks base and tuned model questions that are in no training row."""
    import aprnb

    base = next(path for path in sorted(folder.glob("*.apr")) if path != output and (NOTEBOOKS / path.name).exists())
    models = {"before": aprnb.load(base), "after": aprnb.load(output)}
    print("\nHow the answers changed (questions that were in no training row):")
    for asked in QUESTIONS:
        print(f"  {asked}")
        for when, (model, tokenizer) in models.items():
            print(f"    {when:<7} {aprnb.generate(model, tokenizer, asked, max_new_tokens=48).text.strip()}")


if __name__ == "__main__":
    sys.exit(main())
