"""Options become a checked recipe, or an error that says which option, what was given and what it takes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from typing import Any

import pytest

import aprnb
from aprnb.errors import ArchitectureError, UsageProblem
from aprnb.tuning.planning.model_size import check_model_size, size_fits, size_without_file
from aprnb.tuning.planning.recipe import OPTIONS, Recipe, RunOptions, recipe_document
from aprnb.tuning.planning.recipe_reader import read_options, read_toml
from aprnb.tuning.results.run import Run
from aprnb_tests.tiny import tiny_recipe


def test_the_command_from_the_story_becomes_a_recipe() -> None:
    recipe, options = read_options(
        {
            "method": "qlora",
            "quantize-nf4": True,
            "rank": "16",
            "data": "data/instruct-corpus.jsonl",
            "task": "instruct",
            "model-size": "8B",
            "output": "checkpoints/qwen_qwen3-8b-finetuned.apr",
            "verbose": True,
        }
    )
    assert (recipe.method, recipe.rank, options.model_size, options.verbose) == ("qlora", 16, "8B", True)


def test_an_unknown_option_is_rejected_with_the_nearest_name() -> None:
    with pytest.raises(UsageProblem, match=r"unknown option '--learnig-rate' \(did you mean learning_rate\?\)"):
        read_options({"--learnig-rate": 1e-4})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rank", 0, "a whole number from 1 to 4,096"),
        ("rank", "8.5", "a whole number"),
        ("rank", True, "a whole number"),
        ("val_split", 1, "a number from 0 to 0.9"),
        ("learning_rate", "fast", "a number"),
        ("learning_rate", "nan", "a number"),
        ("epochs", 0, "a whole number from 1 to 10,000"),
        ("method", "lara", "did you mean lora?"),
        ("dtype", "float16", "one of auto, f32, bf16"),
        ("verbose", "maybe", "true or false"),
        ("output", "", "a value"),
        ("target_modules", "q_proj,,", "module names"),
        ("overrides", ["rope_theta"], "field=value"),
    ],
)
def test_a_value_out_of_range_is_rejected_with_what_the_option_takes(name: str, value: object, expected: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        read_options({name: value}, where="cell")
    assert OPTIONS[name].flag in str(caught.value)
    assert expected in str(caught.value)
    assert "(cell)" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "full", "quantize_nf4": True},
        {"method": "full", "rank": 8},
        {"eval_data": "held.jsonl", "val_split": 0.2},
        {"adapter_only": True, "output_dtype": "F16"},
    ],
)
def test_options_that_exclude_each_other_are_rejected(options: dict[str, object]) -> None:
    with pytest.raises(UsageProblem):
        read_options(options)


def test_a_task_other_than_instruct_is_an_error_that_names_it() -> None:
    with pytest.raises(UsageProblem, match="--task classify is not supported; expected instruct"):
        read_options({"task": "classify"})


def test_quantize_nf4_means_qlora() -> None:
    assert read_options({"quantize_nf4": "true"})[0].method == "qlora"


def test_set_gives_overrides() -> None:
    assert read_options({"set": ["rope_theta=1000000"]})[1].overrides == {"rope_theta": "1000000"}


def test_a_toml_recipe_has_the_same_keys_and_options_on_the_line_win() -> None:
    text = 'method = "lora"\nlearning-rate = 1e-4\ntarget_modules = ["v_proj", "q_proj"]\n'
    recipe, _ = read_options({**read_toml(text), "method": "qlora"})
    assert (recipe.method, recipe.learning_rate, recipe.target_modules) == ("qlora", 1e-4, ("q_proj", "v_proj"))


def test_an_unknown_key_of_a_toml_recipe_is_rejected_with_its_line() -> None:
    with pytest.raises(UsageProblem, match=r"unknown option 'ranks' \(did you mean rank\?\) \(recipe, line 3\)"):
        read_toml("# mine\nepochs = 2\nranks = 8\n")


def test_text_that_is_not_toml_is_rejected_with_its_line() -> None:
    with pytest.raises(UsageProblem, match=r"not TOML: .*line 2"):
        read_toml("epochs = 2\nrank 8\n")


def test_a_recipe_is_json_whatever_the_rows_are() -> None:
    rows = [{"instruction": "a", "response": "b"}] * 3
    found = json.loads(json.dumps(recipe_document(tiny_recipe(), RunOptions(data=rows))))
    assert found["data"] == "list of 3 rows"
    assert list(found) == list(OPTIONS)


def test_every_option_belongs_to_the_recipe_or_to_the_call() -> None:
    recipe, call = ({field.name for field in dataclasses.fields(kind)} for kind in (Recipe, RunOptions))
    assert not recipe & call
    assert recipe | call == set(OPTIONS)


def test_the_identity_is_the_recipe_and_nothing_of_the_call() -> None:
    assert set(tiny_recipe().identity()) == {field.name for field in dataclasses.fields(Recipe)}
    assert tiny_recipe(gradient_checkpointing="on").identity() == tiny_recipe().identity()
    assert tiny_recipe(seed=1).identity() != tiny_recipe().identity()


@pytest.mark.parametrize("function", [aprnb.plan, aprnb.finetune])
def test_the_signatures_take_the_options_with_their_defaults(function: Callable[..., object]) -> None:
    taken = dict(inspect.signature(function).parameters)
    assert taken.pop("model").default is None
    for name in ("listener", "on_phase"):  # what hears of the progress is no option
        taken.pop(name, None)
    # `--plan` of the command line is a function of its own in Python.
    assert {name: one.default for name, one in taken.items()} == {
        name: option.default for name, option in OPTIONS.items() if name != "plan"
    }
    assert {one.kind for one in taken.values()} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("method", "function", "known"),
    [
        (Run.generate, aprnb.generate, {"model", "tokenizer"}),
        (Run.merge, aprnb.merge, {"base", "adapter", "verify"}),  # `verify` is how a run checks its own output
    ],
)
def test_a_run_takes_the_arguments_of_the_public_function(method: Any, function: Any, known: set[str]) -> None:
    own, public = (inspect.signature(one).parameters for one in (method, function))
    expected = {name: one.default for name, one in public.items() if name not in known}
    assert {name: one.default for name, one in own.items() if name != "self"} == expected


@pytest.mark.parametrize("function", [aprnb.plan, aprnb.finetune])
def test_the_signatures_name_the_choices(function: Callable[..., object]) -> None:
    hints = typing.get_type_hints(function)
    for name, option in OPTIONS.items():
        if option.kind == "choice":
            literals = [hints[name], *typing.get_args(hints[name])]
            [choices] = [typing.get_args(one) for one in literals if typing.get_origin(one) is typing.Literal]
            assert choices == option.choices


def test_the_documentation_of_finetune_describes_every_argument() -> None:
    described = set(re.findall(r"^ {4}(\w+): ", inspect.getdoc(aprnb.finetune) or "", re.MULTILINE))
    assert set(inspect.signature(aprnb.finetune).parameters) <= described


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Parameter counts of the published checkpoints, from the headers of their safetensors files.
    [
        ("0.5B", 494_032_768), ("1.5B", 1_543_714_304), ("7B", 7_615_616_512), ("0.6B", 596_049_920),
        ("600M", 596_049_920), ("1.7B", 1_720_574_976), ("4B", 4_022_468_096), ("8B", 8_190_735_360),
        ("14B", 14_768_307_200), ("32B", 32_762_123_264), ("8B", 8_030_261_248), ("1B", 1_235_814_400),
        ("3B", 3_212_749_824), ("7B", 6_738_415_616), ("70B", 68_976_648_192), ("72B", 72_706_203_648),
        ("135M", 134_515_008), ("8.19b", 8_190_735_360),
    ],
)  # fmt: skip
def test_the_usual_name_of_a_model_fits_its_parameter_count(name: str, parameters: int) -> None:
    assert size_fits(name, parameters)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("0.6B", 8_190_735_360), ("8B", 596_049_920), ("7B", 8_030_261_248), ("4B", 8_190_735_360), ("3B", 1_720_574_976)],
)
def test_the_name_of_another_size_does_not_fit(name: str, parameters: int) -> None:
    assert not size_fits(name, parameters)


def test_a_size_that_is_not_the_files_is_an_error_with_both_counts() -> None:
    with pytest.raises(ArchitectureError, match=r"600,000,000 \(600.00 M\) .*8,190,735,360 \(8.19 B\)"):
        check_model_size("0.6B", 8_190_735_360)


def test_a_size_is_accepted_with_or_without_the_tied_head() -> None:
    check_model_size("1.7B", 2_031_739_904, 1_720_574_976)


def test_a_size_without_a_file_says_what_to_do() -> None:
    assert "give the path of a checkpoint" in str(size_without_file("8B"))


def test_a_size_that_is_not_a_count_is_rejected() -> None:
    with pytest.raises(UsageProblem, match="expected a count such as 8B"):
        check_model_size("large", 10**9)


def test_reading_options_loads_neither_torch_nor_numpy() -> None:
    modules = ("planning.recipe_reader", "planning.model_size", "training.events")
    imports = ", ".join(["sys", *(f"aprnb.tuning.{module}" for module in modules)])
    code = f"import {imports}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
