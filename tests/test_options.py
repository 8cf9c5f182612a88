"""One table of options and one vocabulary of dtypes, for all commands and for the Python functions."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import aprnb
from aprnb.arguments import help_text, parse
from aprnb.commands import COMMANDS
from aprnb.errors import UsageProblem
from aprnb.option_values import read_value
from aprnb.options import GROUPS, OPTIONS
from aprnb.tuning.planning.recipe_reader import read_options, read_toml

SPELLINGS = {
    "f32": ("f32", "F32", "float32", "Float32"),
    "f16": ("f16", "F16", "float16", "FLOAT16"),
    "bf16": ("bf16", "BF16", "bfloat16", "BFloat16"),
}
WORDS = {
    "convert": ["a.apr", "b.apr", "--dtype"],
    "merge": ["a.apr", "adapter", "--output", "b.apr", "--output-dtype"],
    "finetune": ["a.apr", "--dtype"],
    "plan": ["a.apr", "--output-dtype"],
    "generate": ["a.apr", "--prompt", "x", "--dtype"],
}
# Option, dtype → what is passed on and stored, as before there was one vocabulary.
STORED = {
    "target_dtype": {"f32": "f32", "f16": "f16", "bf16": "bf16"},
    "output_dtype": {"f32": "F32", "f16": "F16", "bf16": "BF16"},
    "dtype": {"f32": "float32", "bf16": "bfloat16"},
    "load_dtype": {"f32": "float32", "f16": "float16", "bf16": "bfloat16"},
}
DTYPE_OPTIONS = {
    "convert": "target_dtype", "merge": "output_dtype", "finetune": "dtype", "plan": "output_dtype",
    "generate": "load_dtype",
}  # fmt: skip


@pytest.mark.parametrize("command", WORDS)
@pytest.mark.parametrize(("dtype", "spelling"), [(name, text) for name, texts in SPELLINGS.items() for text in texts])
def test_every_spelling_of_a_dtype_means_the_same_in_every_command(command: str, dtype: str, spelling: str) -> None:
    option = DTYPE_OPTIONS[command]
    if dtype not in STORED[option]:
        with pytest.raises(UsageProblem, match="expected one of auto, f32, bf16"):
            parse(command, [*WORDS[command], spelling], prog="aprnb", surface="shell")
        return
    given = parse(command, [*WORDS[command], spelling], prog="aprnb", surface="shell")
    assert given[option] == STORED[option][dtype]


@pytest.mark.parametrize("name", ["q8", "Q8", "q4", "Q4_K", "q6_k"])
def test_quantised_types_are_taken_by_convert_in_any_case(name: str) -> None:
    given = parse("convert", ["a.apr", "b.apr", "--dtype", name], prog="aprnb", surface="shell")
    assert given["target_dtype"] == name.lower()


@pytest.mark.parametrize("command", WORDS)
def test_a_dtype_that_a_command_does_not_take_is_an_error_that_lists_what_it_takes(command: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        parse(command, [*WORDS[command], "q5_1"], prog="aprnb", surface="shell")
    option = OPTIONS[DTYPE_OPTIONS[command]]
    assert f"{option.flag} 'q5_1'; expected one of {', '.join(option.shown_choices)}" in str(caught.value)


@pytest.mark.parametrize(
    ("stored", "near"), [("Q8_0", "q8"), ("AprQ8", "q8"), ("q4_0", "q4"), ("aprq4", "q4"), ("Q5_K", None)]
)
def test_a_file_s_own_name_of_a_dtype_is_an_error_that_names_the_one_to_give(stored: str, near: str | None) -> None:
    with pytest.raises(UsageProblem) as caught:
        parse("convert", ["a.apr", "b.apr", "--dtype", stored], prog="aprnb", surface="shell")
    assert re.findall(r"did you mean (\w+)\?", str(caught.value)) == ([near] if near else [])
    with pytest.raises(UsageProblem) as caught:
        parse("merge", [*WORDS["merge"], stored], prog="aprnb", surface="shell")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(("spelled", "meant", "stored"), [("q8_0", "q8", "Q8_0"), ("Q4_0", "q4", "Q4_0")])
def test_the_name_of_llama_cpp_is_taken_for_a_gguf_target(
    spelled: str, meant: str, stored: str, pocket_qwen3: Path, tmp_path: Path
) -> None:
    """An `.apr` has no such blocks: there it stays an error that names the one to give."""
    given = parse("convert", ["a.apr", "b.GGUF", "--dtype", spelled], prog="aprnb", surface="shell")
    assert given["target_dtype"] == meant
    plan = aprnb.plan_conversion(pocket_qwen3, tmp_path / "x.gguf", dtype=spelled)
    assert stored in {row.written for row in plan.rows}
    with pytest.raises(UsageProblem, match=f"did you mean {meant}"):
        aprnb.convert(pocket_qwen3, tmp_path / "x.apr", dtype=spelled)


def test_python_functions_take_a_dtype_of_torch_where_its_name_is_one_of_the_choices(
    pocket_qwen3: Path, tmp_path: Path
) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model, _ = aprnb.load(pocket_qwen3, device="cpu", dtype=dtype)
        assert model.dtype == dtype
    for name, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
        path = tmp_path / f"{name}.apr"
        aprnb.convert(pocket_qwen3, path, dtype=dtype)
        written = path.read_bytes()
        aprnb.convert(pocket_qwen3, path, dtype=name, force=True)
        assert written == path.read_bytes()
    recipe, options = read_options({"dtype": torch.bfloat16, "output_dtype": torch.float16})
    assert (recipe.dtype, options.output_dtype) == ("bfloat16", "F16")
    for function in (aprnb.plan, aprnb.finetune):
        with pytest.raises(UsageProblem, match="--dtype torch.float16; expected one of auto, f32, bf16"):
            function(pocket_qwen3, data=["x"], dtype=torch.float16)
        with pytest.raises(UsageProblem, match="--output-dtype torch.int8; expected one of f32, f16, bf16"):
            function(pocket_qwen3, data=["x"], output_dtype=torch.int8)


@pytest.mark.parametrize(
    "function", [value for name in aprnb.__all__ if inspect.isfunction(value := getattr(aprnb, name))]
)
def test_type_hints_of_public_functions_can_be_resolved(function: Any) -> None:
    assert "return" in typing.get_type_hints(function)


@pytest.mark.parametrize("name", ["float64", "int8", "float8_e4m3fn", "bool"])
def test_other_dtypes_of_torch_are_usage_problems(name: str, pocket_qwen3: Path, tmp_path: Path) -> None:
    dtype = getattr(torch, name)
    with pytest.raises(UsageProblem, match=f"--dtype torch.{name}; expected one of auto, f32, f16, bf16"):
        aprnb.load(pocket_qwen3, device="cpu", dtype=dtype)
    with pytest.raises(UsageProblem, match=f"--dtype torch.{name}; expected one of f32, f16, bf16, q8"):
        aprnb.convert(pocket_qwen3, tmp_path / "x.apr", dtype=dtype)
    with pytest.raises(UsageProblem, match=f"--output-dtype torch.{name}; expected one of f32, f16, bf16"):
        aprnb.merge(pocket_qwen3, tmp_path, tmp_path / "x.apr", output_dtype=dtype)


def test_a_recipe_takes_every_spelling_and_stores_the_same_as_before() -> None:
    recipe, options = read_options(read_toml('dtype = "BF16"\noutput-dtype = "float16"\n'))
    assert (recipe.dtype, options.output_dtype) == ("bfloat16", "F16")


def test_a_recipe_that_says_plan_is_false_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, Any] = {}
    monkeypatch.setattr("aprnb.tuning.finetune.finetune", lambda model, **options: taken.update(options, model=model))
    heard: list[object] = []
    view: Any = SimpleNamespace(training=lambda work, _kind: work(heard.append), starts_processes=False)
    COMMANDS["finetune"].run({"checkpoint": "x.apr", "plan": False, "rank": 8}, view)
    assert taken == {"model": "x.apr", "rank": 8, "listener": heard.append}


def test_the_python_functions_take_every_spelling(pocket_qwen3: Path, tmp_path: Path) -> None:
    written = set()
    for spelling in ("F16", "float16", "f16"):
        aprnb.convert(pocket_qwen3, tmp_path / "x.apr", dtype=spelling, force=True)
        written.add((tmp_path / "x.apr").read_bytes())
    assert len(written) == 1
    for spelling in ("F16", "float16", "f16"):
        model, _ = aprnb.load(pocket_qwen3, device="cpu", dtype=spelling)
        assert str(model.dtype) == "torch.float16"
    with pytest.raises(UsageProblem, match="expected one of f32, f16, bf16, q8, q4, q4_k, q6_k"):
        aprnb.convert(pocket_qwen3, tmp_path / "x.apr", dtype="int8")
    with pytest.raises(UsageProblem, match="expected one of auto, f32, f16, bf16"):
        aprnb.load(pocket_qwen3, device="cpu", dtype="q4_k")
    with pytest.raises(UsageProblem, match="expected one of f32, f16, bf16"):
        aprnb.merge(pocket_qwen3, tmp_path, tmp_path / "x.apr", output_dtype="q4_k")


def test_every_option_is_in_one_group_and_used_by_a_command() -> None:
    names = [option.name for options in GROUPS.values() for option in options]
    assert len(names) == len(set(names)) == len(OPTIONS)
    used = {option.name for command in COMMANDS.values() for option in command.options}
    assert used == set(OPTIONS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_is_a_value_that_its_option_takes(command: str) -> None:
    for option in COMMANDS[command].options:
        if option.default is not None:
            assert read_value(option, option.default) == option.default


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("surface", ["shell", "notebook"])
def test_help_names_values_and_never_a_kind(command: str, surface: Any) -> None:
    text = help_text(command, prog=f"aprnb {command}", surface=surface)
    assert not re.search("INTEGER|SOURCE,|CHOICE|PAIRS|MODULES", text)
    assert command in ("watch", "runs") or "--set FIELD=VALUE" in text
    assert "TEXT" not in text or command == "generate"


def test_help_of_finetune_is_grouped() -> None:
    text = help_text("finetune", prog="aprnb finetune", surface="shell")
    titles = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert titles == [
        "arguments", "what to train on", "method", "schedule", "output", "model", "device and memory", "run", "general",
    ]  # fmt: skip
    for shown in ("--data ROWS", "--rank N", "--learning-rate RATE", "--max-seq-len TOKENS", "--output FILE"):
        assert shown in text


def test_usage_names_what_is_required() -> None:
    text = help_text("merge", prog="aprnb merge", surface="shell")
    assert text.startswith("usage: aprnb merge FILE ADAPTER --output FILE [options]\n")
    assert help_text("check", prog="%apr_check", surface="notebook").startswith("usage: %apr_check FILE [options]\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_verbose_and_json_on_the_command_line(command: str) -> None:
    text = help_text(command, prog="aprnb", surface="shell")
    assert "--verbose" in text
    assert "--json" in text
    assert "--as" not in text
