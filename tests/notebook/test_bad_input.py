"""Bad input in a real kernel: an error of one or two lines of the right kind, and no incomplete files."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import aprnb
from aprnb import errors
from aprnb.formats import TensorSource, write_apr

ROW = '{"instruction": "Spell fish.", "response": "f i s h"}'
TUNE = "%apr_finetune pocket.apr --max-steps 1 --rank 2 --output out.apr"


def rewritten(source: Path, target: Path, metadata=None, spoil: str = "") -> None:
    """A copy of a real file with other metadata, or with a NaN in one tensor."""
    base = aprnb.open(source)

    def load(name: str) -> bytes:
        raw = base.raw(name)
        return b"\xff\x7f" + raw[2:] if name == spoil else raw

    tensors = [TensorSource(n, e.dtype, e.shape, lambda n=n: load(n)) for n, e in base.tensors.items() if e.size_bytes]
    write_apr(target, base.metadata if metadata is None else metadata, tensors)


@pytest.fixture(scope="module")
def folder(pocket_qwen3, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    whole = pocket_qwen3.read_bytes()
    metadata = dict(aprnb.open(pocket_qwen3).metadata)
    files = {
        "pocket.apr": whole,
        "empty.apr": b"",
        "text.apr": b"this is a note about a model\n" * 9,
        "short.apr": whole[:400_000],
        "old.apr": b"APRN\x01\x00" + bytes(100),
        "gguf.apr": b"GGUF\x09\x00\x00\x00" + bytes(100),
        "safe.apr": (40).to_bytes(8, "little") + b'{"__metadata__":{"format":"pt"}}' + bytes(40),
        "zip.apr": b"PK\x03\x04" + bytes(100),
        "pickle.apr": b"\x80\x04\x95" + bytes(100),
        "checksum.apr": whole[:41] + bytes([whole[41] ^ 1]) + whole[42:],
        "rows.jsonl": (ROW + "\n").encode() * 4,
        "nothing.jsonl": b"\n",
        "broken.jsonl": (ROW + "\n").encode() * 2 + b'{"instruction": \n',
        "there.apr": b"precious",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    rewritten(pocket_qwen3, folder / "nan.apr", spoil="model.layers.1.mlp.up_proj.weight")
    rewritten(pocket_qwen3, folder / "mute.apr", {k: v for k, v in metadata.items() if not k.startswith("tokenizer")})
    rewritten(pocket_qwen3, folder / "alien.apr", metadata | {"hf_model_type": "qwen9", "architecture": "qwen9"})
    return folder


LIMIT = "import resource; before = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
LIMIT += "resource.setrlimit(resource.RLIMIT_FSIZE, ({}, before[1]))"
CASES = [
    ("%apr_inspect missing.apr", 3, r"no file at missing\.apr"),
    ("%apr_inspect .", 4, "is a directory"),
    ("%apr_inspect empty.apr", 4, "is empty"),
    ("%apr_inspect text.apr", 4, "a text file"),
    ("%apr_inspect short.apr", 4, r"byte 400,000 is the first one missing of model\."),
    ("%apr_inspect old.apr", 4, "APRN"),
    ("%apr_inspect gguf.apr", 4, "GGUF version 9"),
    ("%apr_inspect safe.apr", 4, "safetensors header of safe.apr is not JSON"),
    ("%apr_inspect zip.apr", 4, "zip"),
    ("%apr_inspect pickle.apr", 4, "pickle"),
    ("%apr_inspect checksum.apr", 4, "header checksum"),
    ("%apr_check alien.apr", 5, "family 'qwen9'"),
    ("import aprnb; aprnb.load('nan.apr')", 5, "up_proj.weight holds NaN"),
    (TUNE.replace("pocket", "nan") + " --data rows.jsonl --force", 5, "up_proj.weight holds NaN"),
    (TUNE.replace("pocket", "mute") + " --data rows.jsonl", 5, "no tokenizer"),
    (f"{TUNE} --data nothing.jsonl", 5, "is empty"),
    (f"{TUNE} --data broken.jsonl", 5, r"broken\.jsonl line 3"),
    (f"{TUNE} --data rows.jsonl --max-seq-len 8 --too-long error", 5, r"has \d+ tokens; expected at most 8"),
    (f"{TUNE} --data rows.jsonl --rnak 8", 2, "did you mean --rank"),
    (f"{TUNE} --data rows.jsonl --output there.apr", 2, "there.apr exists"),
    (f"{TUNE} --data rows.jsonl --output nowhere/x.apr", 3, "no folder nowhere"),
    (f"{TUNE} --data rows.jsonl --force", 1, "no space left"),
]


def test_each_is_one_clear_error_in_the_cell_and_the_kernel_continues(folder):
    cells = ["%load_ext aprnb"]
    for source, *_ in CASES[:-1]:
        cells.append(source)
    cells += [
        LIMIT.format(1_000_000),
        CASES[-1][0],
        "resource.setrlimit(resource.RLIMIT_FSIZE, before)",
        "print(1 + 1)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    before = {path.name for path in folder.iterdir()}
    environment = {**os.environ, "APRNB_STATIC": "1"}
    client = NotebookClient(notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    found = {cell.source: [o for o in cell.outputs if o.output_type == "error"] for cell in notebook.cells}
    for source, exit_code, message in CASES:
        [error] = found.pop(source)
        kind = getattr(errors, error.ename)
        assert kind.exit_code == exit_code, source
        assert len(error.traceback) <= 2, source
        assert re.search(message, "\n".join(error.traceback)), (source, error.traceback)
    assert not [source for source, errors_shown in found.items() if errors_shown]
    assert notebook.cells[-1].outputs[0].text == "2\n"
    left = {path.name for path in folder.iterdir()} - before
    assert "out.apr" not in left
    assert not [name for name in left if name.endswith(".part") or name.startswith(".")]
    assert (folder / "there.apr").read_bytes() == b"precious"
