"""What an error advises works: each situation is built, its error is read, and its way out does not end in the same."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architecture.evidence import test_gguf_keys as gguf_keys
from safetensors.torch import load_file, save_file

import aprnb
from aprnb.cli import main
from aprnb_tests import families
from aprnb_tests.actions import actions
from aprnb_tests.apr_bytes import with_metadata
from aprnb_tests.safetensors_bytes import folder_of

ROW = {"instruction": "Spell fish.", "response": "f i s h"}
QUICK: dict[str, Any] = {"data": [ROW] * 4, "val_split": 0, "max_steps": 1, "rank": 2, "max_seq_len": 64}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@dataclass(frozen=True)
class Place:
    """A folder of the test's own, and what the situations begin with."""

    folder: Path
    base: Path
    sources: Path
    foreign: Path = field(repr=False)
    real: Callable[[str], Path] = field(repr=False)

    def apr(self, **changes: Any) -> Path:
        """The shipped model with other metadata; None removes a key."""
        with aprnb.open(self.base) as checkpoint:
            metadata = {**checkpoint.metadata, **changes}
        path = self.folder / "x.apr"
        path.write_bytes(with_metadata(self.base.read_bytes(), {k: v for k, v in metadata.items() if v is not None}))
        return path

    def hf(self, **config: Any) -> Path:
        """The same model as a folder, with changes of its config."""
        folder = folder_of(self.base, self.sources / "qwen3", self.folder / "hf")
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        return folder

    def write(self, name: str, text: str) -> Path:
        (self.folder / name).write_text(text)
        return self.folder / name

    @property
    def config(self) -> Path:
        return self.sources / "qwen3" / "config.json"


Attempt = Callable[[], Any]
Situation = tuple[Attempt, list[Attempt]]
SITUATIONS: dict[str, list[Callable[[Place], Situation]]] = {}
"""Advice, as it stands in the source with {} for values → the situations in which it is given."""


def advises(*texts: str) -> Callable[[Callable[[Place], Situation]], Callable[[Place], Situation]]:
    def registered(situation: Callable[[Place], Situation]) -> Callable[[Place], Situation]:
        for text in texts:
            SITUATIONS.setdefault(text, []).append(situation)
        return situation

    return registered


GIVE_CONFIG = "give the model's own config with --config config.json"


# ---- architecture


@advises("--set {}=VALUE", GIVE_CONFIG)
def an_open_field(place: Place) -> Situation:
    path = place.apr(rope_theta=None)
    ways = [{"config": place.config}, {"overrides": {"rope_theta": "1e6"}}]
    return lambda: aprnb.check(path), [lambda way=way: aprnb.check(path, **way) for way in ways]


@advises("--set {}")
def a_contradiction(place: Place) -> Situation:
    folder = place.hf(hidden_size=256)
    return lambda: aprnb.check(folder), [lambda: aprnb.check(folder, overrides={"hidden_size": "128"})]


@advises("--set {}")
def a_contradiction_about_layers(place: Place) -> Situation:
    folder = place.hf(num_hidden_layers=7)
    return lambda: aprnb.check(folder), [lambda: aprnb.check(folder, overrides={"num_hidden_layers": "3"})]


@advises("--set {}")
def a_head_that_is_not_there(place: Place) -> Situation:
    folder = place.hf(tie_word_embeddings=False)
    return lambda: aprnb.check(folder), [lambda: aprnb.check(folder, overrides={"tie_word_embeddings": "true"})]


@advises("--set {}=VALUE")
def layers_with_a_window_that_no_key_states(place: Place) -> Situation:
    families.saved("gemma2", place.folder / "hf")
    path = place.folder / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sliding_window": None}))
    return lambda: aprnb.check(path.parent), [
        lambda: aprnb.check(path.parent, overrides={"sliding_window": "5"}),
        lambda: aprnb.check(path.parent, config={"sliding_window": 5}),
    ]


@advises(GIVE_CONFIG)
def a_file_that_names_no_transformer(place: Place) -> Situation:
    names = ("hf_model_type", "architecture", "hf_architecture", "model.architecture", "hf_config", "model_type")
    path = place.apr(**dict.fromkeys(names))
    return lambda: aprnb.check(path), [lambda: aprnb.check(path, config=place.config)]


@advises(GIVE_CONFIG)
def two_names_of_a_family(place: Place) -> Situation:
    path = place.apr(hf_model_type="llama")
    return lambda: aprnb.check(path), [lambda: aprnb.check(path, config=place.config)]


@advises(GIVE_CONFIG)
def tensors_of_another_family(place: Place) -> Situation:
    names = dict.fromkeys(("hf_model_type", "architecture", "hf_architecture", "model.architecture"), "llama")
    path = place.apr(**names)
    return lambda: aprnb.check(path), [lambda: aprnb.check(path, config=place.config)]


@advises(GIVE_CONFIG)
def factors_of_an_unknown_kind(place: Place) -> Situation:
    path = place.folder / "x.gguf"
    gguf_keys.model(path, factors=np.linspace(1, 3, 8))
    return lambda: aprnb.check(path), [
        lambda: aprnb.check(path, config={"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    ]


@advises(GIVE_CONFIG)
def a_scaling_of_an_unknown_kind(place: Place) -> Situation:
    path = place.folder / "x.gguf"
    keys = {"rope.freq_base": (gguf_keys.FLOAT, 1e6), "rope.scaling.type": (gguf_keys.STRING, "magic")}
    gguf_keys.model(path, keys)
    return lambda: aprnb.check(path), [lambda: aprnb.check(path, config={"rope_scaling": None})]


@advises("give the model's config.json with --config")
def a_config_that_is_not_there(place: Place) -> Situation:
    missing = place.folder / "none.json"
    return lambda: aprnb.check(place.base, config=missing), [lambda: aprnb.check(place.base, config=place.config)]


@advises("omit --model-size (the file decides), or open a checkpoint of that size")
def another_size(place: Place) -> Situation:
    return lambda: aprnb.plan(place.base, model_size="8B", **QUICK), [lambda: aprnb.plan(place.base, **QUICK)]


# ---- conversion


@advises("choose another name, or allow overwriting with --force")
def a_target_that_exists(place: Place) -> Situation:
    target = place.folder / "x.gguf"
    aprnb.convert(place.base, target)
    return lambda: aprnb.convert(place.base, target), [
        lambda: aprnb.convert(place.base, target, force=True),
        lambda: aprnb.convert(place.base, place.folder / "y.gguf"),
    ]


@advises("give --dtype {}")
def values_beyond_f16(place: Place) -> Situation:
    folder = place.hf()
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(weights, path, metadata={"format": "pt"})
    return lambda: aprnb.convert(folder, place.folder / "x.apr", dtype="f16"), [
        lambda: aprnb.convert(folder, place.folder / "x.apr", dtype="bf16")
    ]


@advises("merge it into its base: `aprnb merge`")
def an_adapter_in_place_of_a_model(place: Place) -> Situation:
    adapter = aprnb.finetune(place.base, output=place.folder / "out.apr", adapter_only=True, **QUICK).adapter
    return lambda: aprnb.open(adapter), [lambda: aprnb.merge(place.base, adapter, place.folder / "merged.apr")]


# ---- rows, templates and recipes


@advises("check --data")
def rows_that_are_not_there(place: Place) -> Situation:
    rows = place.write("rows.jsonl", json.dumps(ROW))
    options = {key: value for key, value in QUICK.items() if key != "data"}
    return lambda: aprnb.plan(place.base, data=place.folder / "none.jsonl", **options), [
        lambda: aprnb.plan(place.base, data=rows, **options)
    ]


@advises("give --data FILE.jsonl, or rows as the cell's body")
def no_rows(place: Place) -> Situation:
    return lambda: aprnb.plan(place.base), [lambda: aprnb.plan(place.base, **QUICK)]


@advises("remove them from --eval-data, or use --val-split in its place")
def rows_in_both(place: Place) -> Situation:
    options = {key: value for key, value in QUICK.items() if key != "val_split"}
    rows = [{**ROW, "response": f"f i s h {number}"} for number in range(9)]
    options["data"] = rows
    return lambda: aprnb.plan(place.base, eval_data=rows[:1], **options), [
        lambda: aprnb.plan(place.base, val_split=0.2, **options),
        lambda: aprnb.plan(place.base, eval_data=[{**ROW, "response": "fish"}], **options),
    ]


@advises("give a larger --max-seq-len, or another --too-long")
def a_row_that_is_too_long(place: Place) -> Situation:
    rows = [ROW, {"instruction": "f i s h " * 16, "response": "a"}]
    options = {**QUICK, "data": rows, "too_long": "error"}
    return lambda: aprnb.plan(place.base, **options), [
        lambda: aprnb.plan(place.base, **{**options, "max_seq_len": 512}),
        *(
            lambda too_long=too_long: aprnb.plan(place.base, **{**options, "too_long": too_long})
            for too_long in ("truncate-prompt", "drop", "split")
        ),
    ]


@advises("give --columns instruction={},response={}")
def columns_of_other_names(place: Place) -> Situation:
    options = {**QUICK, "data": [{"question": "a", "answer": "b"}]}
    return lambda: aprnb.plan(place.base, **options), [
        lambda: aprnb.plan(place.base, **options, columns="instruction=question,response=answer")
    ]


@advises("give rows with an assistant turn, or a larger --max-seq-len")
def answers_that_are_too_long(place: Place) -> Situation:
    rows = [{"instruction": "a", "response": "f i s h " * 16}]
    options = {**QUICK, "data": rows}
    return lambda: aprnb.plan(place.base, **options), [
        lambda: aprnb.plan(place.base, **{**options, "max_seq_len": 512}),
        lambda: aprnb.plan(place.base, **{**options, "data": [ROW]}),
    ]


@advises("give a template with --chat-template")
def a_template_that_does_not_fit(place: Place) -> Situation:
    good = place.write("good.jinja", TEMPLATE)
    bad = place.write("bad.jinja", TEMPLATE.replace("<|im_end|>", ""))
    return lambda: aprnb.plan(place.base, chat_template=bad, **QUICK), [
        lambda: aprnb.plan(place.base, chat_template=good, **QUICK)
    ]


@advises("change the rows, or give a template with --chat-template")
def rows_that_a_template_rejects(place: Place) -> Situation:
    good = place.write("good.jinja", TEMPLATE)
    bad = place.write("bad.jinja", "{{ raise_exception('no') }}" + TEMPLATE)
    return lambda: aprnb.plan(place.base, chat_template=bad, **QUICK), [
        lambda: aprnb.plan(place.base, chat_template=good, **QUICK)
    ]


@advises("name one with --chat-template ({}, or a file)")
def an_unknown_template(place: Place) -> Situation:
    good = place.write("good.jinja", TEMPLATE)
    return lambda: aprnb.plan(place.base, chat_template="chatmll", **QUICK), [
        lambda: aprnb.plan(place.base, chat_template="chatml", **QUICK),
        lambda: aprnb.plan(place.base, chat_template=good, **QUICK),
    ]


@advises("give a template that fits the model: --chat-template FILE")
def a_template_of_other_tokens(place: Place) -> Situation:
    good = place.write("good.jinja", TEMPLATE)
    return lambda: aprnb.plan(place.base, chat_template="llama3", **QUICK), [
        lambda: aprnb.plan(place.base, chat_template=good, **QUICK)
    ]


@advises("save the one you want to a file: --chat-template FILE")
def several_templates(place: Place) -> Situation:
    named = [{"name": "tool_use", "template": TEMPLATE}, {"name": "rag", "template": TEMPLATE}]
    path, good = place.apr(chat_template=named), place.write("good.jinja", TEMPLATE)
    return lambda: aprnb.plan(path, **QUICK), [lambda: aprnb.plan(path, chat_template=good, **QUICK)]


@advises("see {} --help")
def an_unknown_option(place: Place) -> Situation:
    from aprnb.arguments import parse

    return lambda: parse("check", ["x.apr", "--no-such"], prog="aprnb check", surface="shell"), [
        lambda: shows_help("check")
    ]


@advises("see `aprnb finetune --help` or `%apr_finetune?`")
def an_unknown_option_of_a_recipe(place: Place) -> Situation:
    from aprnb.tuning.planning.recipe_reader import read_toml

    return lambda: read_toml("rnak = 4"), [lambda: shows_help("finetune")]


def shows_help(command: str) -> None:
    assert main([command, "--help"]) == 0


@advises("use --device cpu or auto")
def a_gpu_that_is_not_there(place: Place) -> Situation:
    from aprnb.model.device import place as device

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    return lambda: device("cuda"), [lambda: device("cpu"), lambda: device("auto")]


# ---- targets, adapters, generation


@advises("give --dtype q4_k or q6_k, or write a .gguf file")
def a_mix_for_another_format(place: Place) -> Situation:
    target = place.folder / "out.apr"
    return lambda: aprnb.convert(place.base, target, dtype="q4_k_m"), [
        lambda: aprnb.convert(place.base, target, dtype="q4_k"),
        lambda: aprnb.convert(place.base, target, dtype="q6_k", force=True),
        lambda: aprnb.convert(place.base, target.with_suffix(".gguf"), dtype="q4_k_m"),
    ]


def adapter(place: Place, size: float = 1e-3, **config: Any) -> Path:
    """One pair of matrices as PEFT writes them."""
    folder, name = place.folder / "adapter", "base_model.model.model.layers.0.self_attn.q_proj"
    folder.mkdir()
    with aprnb.open(place.base) as checkpoint:
        out, width = checkpoint.tensors["model.layers.0.self_attn.q_proj.weight"].shape
    matrices = {f"{name}.lora_A.weight": np.full((2, width), size), f"{name}.lora_B.weight": np.full((out, 2), 1e-3)}
    if config.get("use_dora"):
        matrices[f"{name}.lora_magnitude_vector"] = np.ones(out)
    save_file({key: torch.tensor(value, dtype=torch.float32) for key, value in matrices.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    stated = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(stated))
    return folder


def merged(place: Place) -> Any:
    return aprnb.merge(place.base, place.folder / "adapter", place.folder / "merged.apr", force=True)


@advises("`aprnb merge BASE ADAPTER --output X.apr` makes a model of it")
def an_adapter_without_its_base(place: Place) -> Situation:
    source = adapter(place)
    return lambda: aprnb.convert(source, place.folder / "out.gguf"), [lambda: merged(place)]


@advises("the base comes first: `aprnb merge {} {} --output {}`")
def an_adapter_and_its_base_swapped(place: Place) -> Situation:
    source = adapter(place)
    return lambda: aprnb.merge(source, place.base, place.folder / "out.apr"), [lambda: merged(place)]


@advises("merge it instead: `aprnb merge BASE ADAPTER --output X.apr`, then `aprnb convert X.apr X.gguf`")
def an_adapter_that_gguf_cannot_express(place: Place) -> Situation:
    source = adapter(place, use_dora=True)
    return lambda: aprnb.convert(source, place.folder / "out.gguf", base=place.base), [
        lambda: aprnb.convert(merged(place).path, place.folder / "merged.gguf")
    ]


@advises("give --dtype f32")
def an_adapter_beyond_float16(place: Place) -> Situation:
    source, target = adapter(place, size=1e6), place.folder / "out.gguf"
    return lambda: aprnb.convert(source, target, base=place.base, dtype="f16"), [
        lambda: aprnb.convert(source, target, base=place.base, dtype="f32")
    ]


@advises("convert the base first: `aprnb convert {} base.gguf`")
def a_modelfile_for_a_base_of_another_format(place: Place) -> Situation:
    source, target = adapter(place), place.folder / "out.gguf"

    def again() -> Any:
        base = aprnb.convert(place.base, place.folder / "base.gguf").path
        return aprnb.convert(source, target, base=base, modelfile=True)

    return lambda: aprnb.convert(source, target, base=place.base, modelfile=True), [again]


@advises("write into another folder, or replace it with --force")
def a_modelfile_that_exists(place: Place) -> Situation:
    place.write("Modelfile", "FROM ./mine.gguf\n")
    (place.folder / "other").mkdir()
    way = {"modelfile": True, "dtype": "f16"}
    return lambda: aprnb.convert(place.base, place.folder / "x.gguf", **way), [
        lambda: aprnb.convert(place.base, place.folder / "other" / "x.gguf", **way),
        lambda: aprnb.convert(place.base, place.folder / "x.gguf", force=True, **way),
    ]


def asked(path: Path, **options: Any) -> Any:
    model, tokenizer = aprnb.load(path, device="cpu", chat_template=options.pop("chat_template", None))
    return aprnb.generate(model, tokenizer, "hi", **{"max_new_tokens": 1, **options})


@advises("give --max-new-tokens {} or less")
def an_answer_longer_than_the_context(place: Place) -> Situation:
    length = len(asked(place.base).prompt)  # more characters than tokens
    return lambda: asked(place.base, max_new_tokens=512), [lambda: asked(place.base, max_new_tokens=512 - length)]


@advises("give --raw if it is a base model, which continues a text, or {}")
def a_question_for_a_base_model(place: Place) -> Situation:
    source, path = place.real("llama-q4k"), place.folder / "base.apr"
    with aprnb.open(source) as checkpoint:
        kept = {key: value for key, value in checkpoint.metadata.items() if "chat_template" not in key}
    path.write_bytes(with_metadata(source.read_bytes(), kept))
    return lambda: asked(path), [lambda: asked(path, raw=True), lambda: asked(path, chat_template="chatml")]


@advises("leave out --system")
def a_template_without_a_system_message(place: Place) -> Situation:
    template = place.write("users.jinja", TEMPLATE.replace("messages", "messages if m.role != 'system'", 1))
    path = place.apr(chat_template=None)
    return lambda: asked(path, chat_template=template, system="Be kind."), [lambda: asked(path, chat_template=template)]


# ---- runs


def with_a_run(place: Place) -> Path:
    output = place.folder / "out.apr"
    aprnb.finetune(place.base, output=output, **QUICK)
    return output


@advises("continue it with --resume, or replace it with --force")
def a_run_that_exists(place: Place) -> Situation:
    output = with_a_run(place)
    output.unlink()
    shutil.rmtree(output.with_suffix(".adapter"))
    return lambda: aprnb.finetune(place.base, output=output, **QUICK), [
        lambda: aprnb.finetune(place.base, output=output, resume=True, force=True, **QUICK),
        lambda: aprnb.finetune(place.base, output=output, force=True, **QUICK),
    ]


@advises("add --force to overwrite it; with --resume the saved state of the run is kept")
def an_output_of_an_earlier_run(place: Place) -> Situation:
    output = with_a_run(place)
    (output.with_suffix(".run") / "events.jsonl").unlink()  # which says that the output is the run's own
    return lambda: aprnb.finetune(place.base, output=output, resume=True, **QUICK), [
        lambda: aprnb.finetune(place.base, output=output, resume=True, force=True, **QUICK)
    ]


@advises("start the run without --resume")
def no_run_to_resume(place: Place) -> Situation:
    output = place.folder / "out.apr"
    return lambda: aprnb.finetune(place.base, output=output, resume=True, **QUICK), [
        lambda: aprnb.finetune(place.base, output=output, **QUICK)
    ]


@advises("choose another --output")
def a_link_in_place_of_a_run(place: Place) -> Situation:
    (place.folder / "elsewhere").mkdir()
    (place.folder / "out.run").symlink_to(place.folder / "elsewhere")
    return lambda: aprnb.finetune(place.base, output=place.folder / "out.apr", force=True, **QUICK), [
        lambda: aprnb.finetune(place.base, output=place.folder / "other.apr", **QUICK)
    ]


@advises("start a new run (without --resume)")
def other_rows_than_before(place: Place) -> Situation:
    output = with_a_run(place)
    other = {**QUICK, "data": [{**ROW, "response": "s h e e p"}] * 4}
    return lambda: aprnb.finetune(place.base, output=output, resume=True, force=True, **other), [
        lambda: aprnb.finetune(place.base, output=output, force=True, **other),
        lambda: aprnb.finetune(place.base, output=place.folder / "new.apr", **other),
    ]


@advises("start the run again with --force, without --resume")
def a_run_without_a_state(place: Place) -> Situation:
    output = with_a_run(place)
    for state in output.with_suffix(".run").glob("**/step-*"):
        shutil.rmtree(state)
    return lambda: aprnb.finetune(place.base, output=output, resume=True, force=True, **QUICK), [
        lambda: aprnb.finetune(place.base, output=output, force=True, **QUICK)
    ]


@advises("start the run again with --force, without --resume")
def a_damaged_state(place: Place) -> Situation:
    output = with_a_run(place)
    for state in output.with_suffix(".run").glob("**/step-*/*.json"):
        state.write_text("{}")
    return lambda: aprnb.finetune(place.base, output=output, resume=True, force=True, **QUICK), [
        lambda: aprnb.finetune(place.base, output=output, force=True, **QUICK)
    ]


@advises("start again with a lower --learning-rate (and --force)")
def a_rate_that_drives_the_weights_to_infinity(place: Place) -> Situation:
    def run(rate: float) -> Any:
        # a decay of 10 × 10 multiplies every weight by -99 in each step
        given = {**QUICK, "max_steps": 40, "epochs": 40, "learning_rate": rate, "weight_decay": 10}
        return aprnb.finetune(place.base, output=str(place.folder / "o.apr"), force=True, device="cpu", **given)

    return lambda: run(10), [lambda: run(1e-3)]


ELSEWHERE = {
    "run it again with --resume, or --resume auto: step {} is saved": "tuning/test_child.py",
    "`aprnb runs FOLDER` shows the runs of a folder by their present names": "tuning/test_several_runs.py",
    "{}; `run` is the run so far, and --keep-going lets the next cells run": "notebook/test_runs_of_cells.py",
    "wait until it ends, stop it, or choose another --output": "tuning/test_child.py",
    "the output of a run is None until it has finished, and with --adapter-only: see run.status": (
        "formats/test_folder.py"
    ),
    "--set {}=null": "conversion/test_gguf_llama_cpp.py",
    "use the base that it was trained on, or add --other-base": "attacks/test_changed_base.py",
    "the state of step {} is saved: run the same command again with --resume, or --resume auto": "tuning/test_run.py",
    "give the --adapter of the saved run, or start a new one": "tuning/test_again.py",
    "give the --epochs or --max-steps that it was trained on with, or start anew with --force": "tuning/test_again.py",
    "every step is done and saved: run it again with --resume, or also --adapter-only": "tuning/test_out_of_memory.py",
    "every step is done and saved: run it again with --resume when more memory is free": "tuning/test_out_of_memory.py",
    "every step is done and saved: {}, then run it again with --resume": "tuning/test_disk.py",
    "every step is done and saved: run it again with --resume, without --write-best": "tuning/test_again.py",
    "give the checkpoint on the command line, before --recipe": "tuning/test_several_runs.py",
    "free some space, then run it again with --resume auto": "tuning/test_disk.py",
    "use it with its base in llama.cpp: `llama-cli -m BASE.gguf --lora {}`": "conversion/test_adapter_to_gguf.py",
}
"""Advice whose way out another file's tests take: after a run that was stopped, on another base, in llama.cpp."""
HARDWARE_OR_DAMAGE = {
    "try --quantize-nf4 or a smaller --micro-batch-tokens": "memory that is smaller than a plan",
    "try --gradient-checkpointing on, or start again with a smaller --max-seq-len or --quantize-nf4": "little memory",
    "end other programs, or start again with --quantize-nf4 or a smaller --rank": "little memory",
    'end other programs, or load it in 4 bits: quantize="nf4", in a run --quantize-nf4': "little memory",
    "give a shorter prompt, or a smaller --max-new-tokens": "little memory",
    "give --gradient-checkpointing off": "a class that cannot recompute; no supported one is such",
    "the weights are damaged; run `aprnb inspect` on the file; use an undamaged copy": "damaged weights",
    "check the file (%apr_check), its tokenizer and its chat template": "damaged weights",
    "load the model in float32: --dtype f32": "logits that overflow in float16",
    "run `mlx_lm.fuse --model BASE --adapter-path FOLDER --save-path MODEL`, then convert MODEL": "another program",
    "give --output-dtype {}": "an adapter that drives weights beyond float16",
    "train longer, or give --output-dtype F32": "an adapter whose changes round to nothing",
}
"""Advice without a certain way out: why its situation is not built here."""


def test_every_action_that_names_an_option_is_tried_or_has_a_reason():
    listed = [*SITUATIONS, *ELSEWHERE, *HARDWARE_OR_DAMAGE]
    assert len(set(listed)) == len(listed)
    assert actions() - {"--set "} == set(listed)
    for name in ELSEWHERE.values():
        assert (Path(__file__).parent / name).is_file()


@pytest.fixture
def place(tmp_path, pocket_qwen3, sources, foreign, real) -> Iterator[Place]:
    yield Place(tmp_path, pocket_qwen3, sources, foreign, real)


def same_situation(found: str) -> str:
    """The error without its numbers."""
    return re.sub(r"\d+", "0", found)


ALL = [(text, situation) for text, situations in SITUATIONS.items() for situation in situations]


@pytest.mark.parametrize(("text", "situation"), ALL, ids=[situation.__name__ for _, situation in ALL])
def test_the_way_out_of_an_error_does_not_end_in_the_same_error(text, situation, place):
    fail, ways = situation(place)
    with pytest.raises(aprnb.AprnbError) as first:
        fail()
    pattern = ".*".join(map(re.escape, text.split("{}"))).replace("VALUE", r"\S+")
    assert re.search(pattern, first.value.action or "", re.DOTALL), first.value
    for way in ways:
        try:
            way()
        except aprnb.AprnbError as error:
            assert same_situation(error.found) != same_situation(first.value.found)
            raise
