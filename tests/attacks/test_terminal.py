"""What a file says reaches people as text: no escape sequence, no endless message, no raw error for odd names."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from registry import way
from ways_sidecars import POCKET

import aprnb
from aprnb import cli
from aprnb.errors import AprnbError, UsageProblem
from aprnb.printable import MAX_MESSAGE, json_text, message, running_text, visible
from aprnb.terminal import Terminal
from aprnb_tests import apr_bytes as b
from aprnb_tests import gguf_bytes as g
from aprnb_tests import safetensors_bytes as s

ESCAPE = "\x1b]52;c;cHduZWQ=\x07\x1b[2J\u202e\x9b31m"
"""OSC 52 sets the clipboard, CSI 2J clears the screen; a direction mark; the 8-bit form of CSI."""


def said(*words: object) -> tuple[int, str]:
    """Exit code and everything that the command line wrote to both streams."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(list(map(str, words)))
    return code, out.getvalue() + err.getvalue()


def with_metadata(folder: Path, **changes: Any) -> Path:
    with aprnb.open(POCKET) as checkpoint:
        metadata = {**checkpoint.metadata, **changes}
    (folder / "x.apr").write_bytes(b.with_metadata(POCKET.read_bytes(), metadata))
    return folder / "x.apr"


def index_of(folder: Path, name: str) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    return folder


def file_of(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def rows_of(folder: Path, *rows: Any) -> Path:
    return file_of(folder, "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def adapter_of(folder: Path, config: Any) -> Path:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    return folder / "adapter"


COMMANDS: dict[str, Any] = {
    "the name of a missing shard": lambda f: ("inspect", index_of(f, f"{ESCAPE}.safetensors")),
    "names of files near a missing one": lambda f: (file_of(f, f"{ESCAPE}.apr", b"x"), ("inspect", f / "none.apr"))[1],
    "names of files in a folder": lambda f: (file_of(f, f"{ESCAPE}.apr", b"x"), ("inspect", f))[1],
    "an architecture": lambda f: ("check", with_metadata(f, architecture=f"llama{ESCAPE}", hf_model_type=ESCAPE)),
    "a key of GGUF": lambda f: ("inspect", file_of(f, "x.gguf", g.header(0, 1) + g.text(ESCAPE) + b"\x63\0\0\0")),
    "a tensor of safetensors": lambda f: (
        "inspect", file_of(f, "x.safetensors", s.file_of({ESCAPE: {"dtype": ESCAPE, "shape": [1]}}, bytes(4))),
    ),
    "names of chat templates": lambda f: (
        "plan", with_metadata(f, chat_template=[{"name": ESCAPE, "template": "x"}]), "--data", rows_of(f, *two_rows()),
    ),
    "what a chat template raises": lambda f: (
        "plan", with_metadata(f, chat_template="{{ raise_exception('" + repr(ESCAPE)[1:-1] + "') }}"),
        "--data", rows_of(f, *two_rows()),
    ),
    "a role of a row": lambda f: (
        "plan", POCKET, "--data", rows_of(f, {"messages": [{"role": ESCAPE, "content": "x"}]}),
    ),
    "a kind of adapter": lambda f: ("merge", POCKET, adapter_of(f, {"peft_type": ESCAPE}), "-o", f / "out.apr"),
    "a key of an adapter": lambda f: (
        "merge", POCKET, adapter_of(f, {"peft_type": "LORA", "r": 1, "lora_alpha": 1, ESCAPE: 1}), "-o", f / "out.apr",
    ),
    "a key of a recipe": lambda f: (
        "plan", POCKET, "--recipe", file_of(f, "r.toml", b'"\\u001b]52;c;cHduZWQ=\\u0007" = 1')
    ),
    "an option": lambda f: ("inspect", POCKET, f"--{ESCAPE}"),
    "a command": lambda f: (ESCAPE,),
    "the path of a checkpoint": lambda f: ("inspect", file_of(f, f"{ESCAPE}.apr", POCKET.read_bytes())),
    "the path of a target": lambda f: ("convert", POCKET, f / f"{ESCAPE}.apr"),
}  # fmt: skip


def two_rows() -> list[dict[str, str]]:
    return [{"instruction": text, "response": "b"} for text in ("a", "c")]


ALSO_AS_JSON = ("the name of a missing shard", "an architecture", "a key of an adapter", "the path of a checkpoint")


@way("escape sequences in names, metadata, templates, rows and adapters")
@pytest.mark.parametrize(
    ("what", "flags"), [*((what, ()) for what in COMMANDS), *((what, ("--json",)) for what in ALSO_AS_JSON)]
)
def test_no_escape_sequence_of_a_file_reaches_a_terminal(tmp_path, what, flags):
    (folder := tmp_path / "files").mkdir()
    _, text = said(*COMMANDS[what](folder), *flags)
    assert "52;c;cHduZWQ=" in text  # it is shown, made harmless
    assert not set(text) & set("\x1b\x07\x9b\u202e")


@way("escape sequences in text that a model generates")
def test_generated_text_is_written_without_escape_sequences(capsys):
    stream = io.StringIO()
    print(f"a\tb\n{ESCAPE} 👩\u200d🔬", file=Terminal(stream))
    assert stream.getvalue() == ("a\tb\n⟨U+001B⟩]52;c;cHduZWQ=⟨U+0007⟩⟨U+001B⟩[2J⟨U+202E⟩⟨U+009B⟩31m 👩\u200d🔬\n")


def test_json_loses_nothing_and_holds_no_control_character():
    document = {"name": ESCAPE, "path": "\udcff\U000e0001é漢"}
    text = json_text(document)
    assert json.loads(text) == document
    assert not set(text) & set("\x1b\x07\x9b\u202e\udcff")
    assert "é漢" in text


@way("messages of many megabytes")
@pytest.mark.parametrize("size", [400_000, 20_000_000])
def test_an_error_has_a_bounded_length_whatever_a_name_has(size):
    error = AprnbError("x" * size, expected=" ".join(["y" * 100] * (size // 100)), where="z" * size, action="w" * size)
    assert f"({size - 300:,} more characters)" in str(error)
    assert len(str(error)) < 2 * MAX_MESSAGE
    assert len(json.dumps(error.to_json())) < 6 * MAX_MESSAGE


def test_a_contract_with_thousands_of_long_names_is_one_short_message(tmp_path):
    names = {f"{number:05}{'n' * 5_000}": ("F32", (1,), bytes(4)) for number in range(2_000)}
    folder = tmp_path / "hf"
    aprnb.convert(POCKET, folder)
    weights = s.weights_of(folder)
    (folder / "model.safetensors").write_bytes(s.packed({**weights, **names}))
    with pytest.raises(AprnbError) as caught:
        aprnb.check(folder).raise_for_violations()
    assert "2000 of" in str(caught.value)
    assert len(str(caught.value)) < 2 * MAX_MESSAGE
    assert len(aprnb.check(folder).violations) == 2_000
    _, text = said("check", folder)
    assert len(text) < 200_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb\tc", "a\nb\tc"), ("a\rb", "a⟨U+000D⟩b"), ("\ud800", "⟨U+D800⟩"), ("\u200d", "⟨U+200D⟩"), ("é漢", "é漢")],
)
def test_a_message_keeps_line_breaks_and_shows_what_is_invisible(text, shown):
    assert message(text) == shown


def test_a_name_is_one_line_and_running_text_keeps_its_own():
    assert visible("a\nb") == "a⟨U+000A⟩b"
    assert running_text("a\nb" + "c" * 100_000) == "a\nb" + "c" * 100_000


@way("names of files that are not UTF-8")
@pytest.mark.parametrize("words", [("inspect",), ("inspect", "--json"), ("check", "--json"), ("convert",)])
@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_a_name_that_is_not_utf_8_is_shown(tmp_path, words, encoding):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.apr"
    Path(os.fsdecode(path)).write_bytes(POCKET.read_bytes())
    target = [str(tmp_path / "out.apr")] if words == ("convert",) else []
    command = [sys.executable, "-m", "aprnb", words[0], os.fsdecode(path), *target, *words[1:]]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    run = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    if "--json" in words:
        json.loads(run.stdout)


def test_a_prompt_that_is_not_text_is_an_aprnb_error():
    from aprnb.model.generation import generate

    with pytest.raises(UsageProblem, match="not text"):
        generate(None, None, "\udcff", raw=True)  # type: ignore[arg-type]  # raises before it uses the model
