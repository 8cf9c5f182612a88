"""Runs the tutorials and stores their outputs: `python notebooks/refresh.py`. Look at the difference before a commit.

Outputs are static (no live view, no scripts, no widget state), so that the files show everywhere and compare well.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent


def refresh(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        for source in NOTEBOOKS.iterdir():
            if source.is_file():
                shutil.copy(source, folder)
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            store_widget_state=False,
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    os.environ["APRNB_STATIC"] = "1"
    wanted = [Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    for notebook_path in wanted:
        print(f"running {notebook_path.name}", flush=True)
        refresh(notebook_path.resolve())
