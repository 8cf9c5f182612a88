"""The tutorials as files, and that nbval's verdict on them can be red."""

import json
import os
import subprocess
import sys

import nbformat
import pytest

NBVAL = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]


def tutorials(repository):
    return sorted((repository / "notebooks").glob("[0-9]*.ipynb"))


def test_stored_outputs_need_no_kernel_and_no_widget_state(repository):
    for path in tutorials(repository):
        text = path.read_text(encoding="utf-8")
        assert "application/vnd.jupyter.widget" not in text
        assert "<script" not in text
        notebook = json.loads(text)
        assert "widgets" not in notebook["metadata"]
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output["output_type"] == "error"]
        assert not [output for output in outputs if output.get("name") == "stderr"]
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1


def test_no_cell_is_left_out_of_the_comparison(repository):
    for path in tutorials(repository):
        text = path.read_text(encoding="utf-8")
        assert "nbval-" not in text.lower()
        assert "nbval_" not in text.lower()


@pytest.mark.parametrize(
    "cell",
    [
        "%apr_inspect missing.apr",
        "%apr_check broken.apr",
        "%apr_finetune pocket.apr --rnak 8",
        '%%apr_finetune pocket.apr\n{"instruction": "x"}',
    ],
)
def test_nbval_fails_when_a_magic_fails(pocket_qwen3, tmp_path, cell):
    (tmp_path / "pocket.apr").symlink_to(pocket_qwen3)
    (tmp_path / "broken.apr").write_bytes(pocket_qwen3.read_bytes()[:100_000])
    assert run(tmp_path, "%load_ext aprnb") == 0
    assert run(tmp_path, "%load_ext aprnb", cell) == 1


def test_nbval_fails_when_a_magic_of_the_tutorial_fails(repository, tmp_path):
    """The tutorial with its checkpoint cut short, and no more of it than it takes."""
    [path] = tutorials(repository)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [c for c in notebook.cells if c.source.startswith(("%load_ext", "%apr_inspect", "%apr_check"))]
    whole = (path.parent / "pocket-qwen3.apr").read_bytes()
    for size, verdict in ((len(whole), 0), (1_000_000, 1)):
        (tmp_path / "pocket-qwen3.apr").write_bytes(whole[:size])
        nbformat.write(notebook, tmp_path / "x.ipynb")
        assert nbval(tmp_path) == verdict


def run(folder, *cells: str) -> int:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, folder / "x.ipynb")
    return nbval(folder)


def nbval(folder) -> int:
    environment = {**os.environ, "APRNB_STATIC": "1"}
    done = subprocess.run(
        [sys.executable, *NBVAL, "x.ipynb"], cwd=folder, env=environment, capture_output=True, text=True
    )
    return done.returncode
