"""A real kernel with APRNB_STATIC=1, as tutorials are stored and tested: same input, same outputs, nothing live."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

CELLS = ("%load_ext aprnb", "%apr_inspect pocket.apr", "%apr_check pocket.apr", "%apr_inspect missing.apr")


def executed(folder: Path) -> list[list[dict[str, object]]]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    client = nbclient.NotebookClient(
        notebook,
        timeout=120,
        allow_errors=True,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return [cell.outputs for cell in notebook.cells]


def test_outputs_are_static_and_the_same_each_time(pocket_qwen3, tmp_path, monkeypatch):
    monkeypatch.setenv("APRNB_STATIC", "1")
    shutil.copy(pocket_qwen3, tmp_path / "pocket.apr")
    first = executed(tmp_path)
    assert first == executed(tmp_path)
    inspect = first[1][0]["data"]
    assert set(inspect) == {"text/plain", "text/html"}
    assert "<script" not in inspect["text/html"]
    assert len(inspect["text/html"]) < 40_000, "36 tensors"


def test_a_magic_that_fails_leaves_an_error_output_that_notebook_tests_see(pocket_qwen3, tmp_path, monkeypatch):
    monkeypatch.setenv("APRNB_STATIC", "1")
    shutil.copy(pocket_qwen3, tmp_path / "pocket.apr")
    (error,) = executed(tmp_path)[3]
    assert error["output_type"] == "error"
    assert error["ename"] == "FileMissing"
    assert len(error["traceback"]) <= 2
