"""Makes the pictures of the README and the documentation: `python docs/pictures/make.py PUBLISHED_MODEL.gguf`.

Opens a JupyterLab as the browser tests do, runs the cells below and saves each cell next to this script.
It needs what `make test` needs, and about two minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright
from safetensors.numpy import load_file, save_file

import aprnb

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import conftest as lab  # noqa: E402
from browser.lab import LabPage  # noqa: E402

LARGEST_BYTES = 150_000
TRAIN = """%%apr_finetune pocket-qwen3.apr --output tuned.apr
data = "ask-the-cow.jsonl"
rank = 16
learning_rate = 1e-3
epochs = 8
batch_size = 8"""
LONG = TRAIN.replace("epochs = 8", "epochs = 100").replace("tuned", "long")


def main(model: Path) -> None:
    with tempfile.TemporaryDirectory() as home, served(Path(home)) as page:
        fill(page.folder, model)
        page.open(
            "pictures.ipynb", ["%load_ext aprnb", f"%apr_inspect {model.name}", "%apr_check damaged", TRAIN, LONG]
        )
        page.page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
        page.page.add_style_tag(content=".jp-cell-toolbar { display: none !important }")
        page.run(0)
        page.run(1, timeout_s=120)
        page.cell(1).get_by_text("Architecture", exact=True).click()
        save(page, 1, "inspect", height=700)
        page.run(2)
        save(page, 2, "contract", height=520)
        page.run(3, timeout_s=300)
        save(page, 3, "training", height=1080)
        page.start(4)
        page.cell(4).locator("svg.aprnb-curve").wait_for(timeout=90_000)
        page.page.wait_for_function("document.querySelector('progress.aprnb-progress').value > 200", timeout=600_000)
        save(page, 4, "training-live", height=1080)


@contextmanager
def served(home: Path) -> Iterator[LabPage]:
    """A JupyterLab with its own settings, opened in Chromium."""
    folder = home / "work"
    folder.mkdir()
    lab._without_news(home)
    port, token = lab._free_port(), "pictures"
    log = home / "server.log"
    server = subprocess.Popen(
        lab._command(port, token, folder), env=lab._environment(home), cwd=folder, stdout=log.open("wb"), stderr=-2
    )
    try:
        lab._wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
        with sync_playwright() as playwright:
            binary = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=binary, args=lab._CHROMIUM_OPTIONS)
            page = browser.new_page(viewport={"width": 1060, "height": 1400})
            yield LabPage(page, f"http://127.0.0.1:{port}", token, folder)
            browser.close()
    finally:
        server.terminate()
        server.wait(20)


def fill(folder: Path, model: Path) -> None:
    """The tutorial's files, the published model, and a folder whose weights do not fit its config."""
    for name in ("pocket-qwen3.apr", "ask-the-cow.jsonl"):
        shutil.copy(ROOT / "notebooks" / name, folder)
    (folder / model.name).symlink_to(model.resolve())
    aprnb.convert(folder / "pocket-qwen3.apr", folder / "damaged", dtype="f32")
    weights = load_file(folder / "damaged" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    weights["model.layers.2.self_attn.o_proj.weight"] = np.ascontiguousarray(
        weights["model.layers.2.self_attn.o_proj.weight"].T
    )
    weights["model.layers.2.self_attn.o_proj.bias"] = np.zeros(128, np.float32)
    save_file(weights, folder / "damaged" / "model.safetensors", metadata={"format": "pt"})


def save(page: LabPage, cell: int, name: str, height: int) -> None:
    """Saves a cell with its output from the top, at most `height` pixels of it."""
    page.page.wait_for_timeout(700)
    page.cell(cell).evaluate("cell => cell.scrollIntoView({block: 'start'})")
    page.page.wait_for_timeout(700)
    box = page.cell(cell).bounding_box()
    clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": min(box["height"], height)}
    path = HERE / f"{name}.png"
    page.page.screenshot(path=path, clip=clip)
    if path.stat().st_size > LARGEST_BYTES:
        raise SystemExit(f"{path.name} is over {LARGEST_BYTES:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
