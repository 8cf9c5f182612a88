"""Another base than the one that was trained on, byte by byte, is an error at --resume and at the merge."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from registry import way

import aprnb
from aprnb.adapters.base_content import (
    BaseContent,
    base_content,
    read_content,
    recorded_base,
    require_same_model,
    require_same_tensors,
)
from aprnb.architecture import check_contract, resolve
from aprnb.errors import AprnbError, CheckpointError, FileMissing, UsageProblem
from aprnb.formats.source import file_sha256
from aprnb.model.build import build_model
from aprnb.model.device import place
from aprnb.tuning.results.merge import merge
from aprnb.tuning.results.saved_adapter import save_adapter
from aprnb.tuning.training.events import StepEvent
from aprnb.tuning.training.lora import attach
from aprnb_tests import apr_bytes, families
from aprnb_tests.tiny import tiny_recipe

COW = "notebooks/ask-the-cow.jsonl"
MIDDLE = "model.layers.1.mlp.up_proj.weight"
FORMATS = ("apr", "gguf", "huggingface")
pytestmark = pytest.mark.usefixtures("nothing_waits")

SPECIAL: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"n_inner": 96},
    "gemma": {"head_dim": 24, "tie_word_embeddings": True},
    "mixtral": {**families.SPECIAL["mixtral"], "sliding_window": None},
    "qwen3_moe": {**families.SPECIAL["qwen3_moe"], "mlp_only_layers": []},
}
"""Configs that GGUF can express: permuted rows, transposed matrices, norms less one, stacked experts (twice)."""


def written(family: str, folder: Path) -> dict[str, Path]:
    """A tiny model of the family in each format."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(families.SPECIAL, family, SPECIAL[family])
        families.saved(family, folder / "hf")
    for ending in ("apr", "gguf"):
        aprnb.convert(folder / "hf", folder / f"x.{ending}")
    return {"apr": folder / "x.apr", "gguf": folder / "x.gguf", "huggingface": folder / "hf"}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(params=FORMATS)
def base(request: pytest.FixtureRequest, originals: dict[str, Path], tmp_path: Path) -> Path:
    """A llama in one of the formats, to be changed."""
    original = originals[request.param]
    copy: Any = shutil.copytree if original.is_dir() else shutil.copyfile
    return Path(copy(original, tmp_path / original.name))


def content_of(path: Path, **options: Any) -> BaseContent:
    with aprnb.open(path) as checkpoint:
        return base_content(checkpoint, check_contract(checkpoint, resolve(checkpoint, **options)))


def compare(saved: BaseContent, path: Path, **options: Any) -> None:
    """What --resume and merge do with the content of an earlier base."""
    with aprnb.open(path) as checkpoint:
        report = check_contract(checkpoint, resolve(checkpoint, **options))
        require_same_model(saved, report, "changed", "start again")
        require_same_tensors(saved, base_content(checkpoint, report).tensors, path, "changed", "start again")


def middle_of(path: Path) -> str:
    """The name in the file of a tensor between others."""
    with aprnb.open(path) as checkpoint:
        return next(name for name in checkpoint.tensors if name in (MIDDLE, "blk.1.ffn_up.weight"))


def change(path: Path, name: str, turn: Callable[[bytes], bytes]) -> None:
    """Puts other bytes of the same length in the tensor's place."""
    with aprnb.open(path) as checkpoint:
        entry = checkpoint.tensors[name]
        file = checkpoint.contents.files[entry.file]
        place_, data = file.data_start + entry.offset, turn(checkpoint.raw(name))
        assert len(data) == entry.size_bytes
    with file.source.path.open("r+b") as opened:
        opened.seek(place_)
        opened.write(data)


def zeroed(data: bytes) -> bytes:
    return bytes(len(data))


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "zeros": zeroed,
    "a part of zeros": lambda data: data[: len(data) // 2] + bytes(64) + data[len(data) // 2 + 64 :],
    "its first bit": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "its last bit": lambda data: data[:-1] + bytes([data[-1] ^ 128]),
    "other rows' order": lambda data: data[len(data) // 2 :] + data[: len(data) // 2],
}


@way("a base that changed between stop and --resume")
@pytest.mark.parametrize("name", CHANGES)
def test_a_tensor_that_changed_is_named_with_how_many(base: Path, name: str) -> None:
    saved, tensor = content_of(base), middle_of(base)
    compare(saved, base)
    change(base, tensor, CHANGES[name])
    with pytest.raises(UsageProblem, match=rf"changed: 1 of {len(saved.tensors)} tensors differ, first {tensor}"):
        compare(saved, base)


@pytest.mark.parametrize("name", CHANGES)
def test_the_fingerprint_changes_with_every_tensor(base: Path, name: str) -> None:
    def fingerprint() -> str:
        with aprnb.open(base) as checkpoint:
            return checkpoint.fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    change(base, middle_of(base), CHANGES[name])
    assert fingerprint() != before


def test_two_tensors_that_changed_places_are_both_counted(base: Path) -> None:
    saved, one = content_of(base), middle_of(base)
    other = one.replace("1", "2", 1)
    with aprnb.open(base) as checkpoint:
        first, second = checkpoint.raw(one), checkpoint.raw(other)
    change(base, one, lambda data: second)
    change(base, other, lambda data: first)
    with pytest.raises(UsageProblem, match=f"2 of {len(saved.tensors)} tensors differ, first {one}"):
        compare(saved, base)


@pytest.mark.parametrize(
    ("field", "value"), [("rms_norm_eps", 1e-3), ("rope_theta", 123.0), ("max_position_embeddings", 32)]
)
def test_another_setting_of_the_architecture_is_named(base: Path, field: str, value: float) -> None:
    saved = content_of(base)
    with pytest.raises(UsageProblem, match=rf"changed: rope_parameters was|changed: {field} was .* and is {value:g}"):
        compare(saved, base, overrides={field: value})


@pytest.mark.parametrize("more", [True, False])
def test_a_tensor_that_only_one_of_them_has_is_named(base: Path, more: bool) -> None:
    saved = content_of(base)
    name = middle_of(base)
    tensors = {**saved.tensors, "planted": "0" * 64} if more else {n: h for n, h in saved.tensors.items() if n != name}
    with pytest.raises(UsageProblem, match=f"only one of them has {'planted' if more else name}"):
        compare(BaseContent(saved.architecture, tensors), base)


def test_a_content_comes_back_from_json_as_it_was(base: Path) -> None:
    saved = content_of(base)
    again = read_content(json.loads(json.dumps(saved.to_json())), base)
    assert again.digest == saved.digest
    compare(again, base)


def load(path: Path) -> tuple[BaseContent, aprnb.Checkpoint]:
    """What the base held while its model was built."""
    checkpoint = aprnb.open(path)
    checkpoint.keep_hashes()
    report = aprnb.check(checkpoint).raise_for_violations()
    build_model(checkpoint, report, place("cpu", "float32"))
    return base_content(checkpoint, report), checkpoint


@pytest.mark.parametrize("family", SPECIAL)
def test_hashes_taken_while_loading_are_those_that_are_read_later(family: str, tmp_path: Path) -> None:
    for path in written(family, tmp_path).values():
        content, checkpoint = load(path)
        checkpoint.close()
        assert content == content_of(path)
        assert set(content.tensors) <= set(checkpoint.tensors)


def test_a_file_that_changes_after_loading_counts_as_it_was_loaded(base: Path) -> None:
    saved = content_of(base)
    checkpoint = aprnb.open(base)
    checkpoint.keep_hashes()
    report = aprnb.check(checkpoint)
    build_model(checkpoint, report, place("cpu", "float32"))
    change(base, middle_of(base), zeroed)
    assert base_content(checkpoint, report) == saved
    checkpoint.close()
    with pytest.raises(UsageProblem, match="1 of"):
        compare(saved, base)


def test_a_tensor_that_is_read_part_by_part_counts_as_it_was_first_read(base: Path) -> None:
    saved, name = content_of(base), middle_of(base)
    with aprnb.open(base) as checkpoint:
        checkpoint.keep_hashes()
        for _ in checkpoint.raw_parts(name, 100):
            pass
        change(base, name, zeroed)
        checkpoint.raw(name)  # a second reading
        assert checkpoint.content_hashes([name])[name] == saved.tensors[name]


def test_a_tensor_of_which_only_a_part_was_read_is_read_again(base: Path) -> None:
    saved, name = content_of(base), middle_of(base)
    with aprnb.open(base) as checkpoint:
        checkpoint.keep_hashes()
        for start in (64, 0):
            checkpoint.read_part(name, start, 32)
        change(base, name, zeroed)
        assert checkpoint.content_hashes([name])[name] != saved.tensors[name]


# The merge


@pytest.fixture(scope="module")
def trained(pocket_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the pocket model that changes every layer and records its base."""
    checkpoint = aprnb.open(pocket_qwen3)
    checkpoint.keep_hashes()
    report = aprnb.check(checkpoint)
    recipe = tiny_recipe(rank=1, alpha=1.0)
    model = attach(build_model(checkpoint, report, place("cpu", "float32")), recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.1)
    folder = tmp_path_factory.mktemp("trained") / "x.adapter"
    return save_adapter(model, folder, pocket_qwen3, content=base_content(checkpoint, report))


@pytest.fixture
def pocket(pocket_qwen3: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(pocket_qwen3, tmp_path / "pocket.apr"))


@way("an adapter that is merged into another base")
def test_a_changed_base_is_rejected_at_the_merge_and_nothing_is_written(
    pocket: Path, trained: Path, tmp_path: Path
) -> None:
    change(pocket, MIDDLE, zeroed)
    with pytest.raises(UsageProblem, match=rf"another base: 1 of \d+ tensors differ, first {MIDDLE}.*\n.*--other-base"):
        merge(pocket, trained, tmp_path / "out.apr")
    assert [path.name for path in tmp_path.iterdir()] == ["pocket.apr"]


def test_a_changed_base_merges_where_that_is_asked_for(pocket: Path, trained: Path, tmp_path: Path) -> None:
    change(pocket, MIDDLE, zeroed)
    merge(pocket, trained, tmp_path / "out.apr", other_base=True)
    assert aprnb.check(tmp_path / "out.apr").ok


def test_the_recorded_base_merges_under_another_name(pocket: Path, trained: Path, tmp_path: Path) -> None:
    assert merge(pocket, trained, tmp_path / "out.apr").changed > 0


def test_a_tensor_that_the_adapter_does_not_touch_counts_as_well(pocket: Path, trained: Path, tmp_path: Path) -> None:
    change(pocket, "model.norm.weight", CHANGES["its first bit"])
    with pytest.raises(UsageProblem, match=r"first model\.norm\.weight"):
        merge(pocket, trained, tmp_path / "out.apr")


@way("an adapter that is converted with another base")
def test_a_changed_base_is_rejected_at_the_conversion_and_nothing_is_written(
    pocket: Path, trained: Path, tmp_path: Path
) -> None:
    change(pocket, MIDDLE, zeroed)
    with pytest.raises(UsageProblem, match=rf"another base: 1 of \d+ tensors differ, first {MIDDLE}.*\n.*--other-base"):
        aprnb.convert(trained, tmp_path / "out.gguf", base=pocket)
    assert [path.name for path in tmp_path.iterdir()] == ["pocket.apr"]
    assert aprnb.convert(trained, tmp_path / "out.gguf", base=pocket, other_base=True).tensors > 0


def test_other_settings_are_named_at_the_conversion(pocket: Path, trained: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"base": pocket, "overrides": {"rms_norm_eps": 0.5}}
    for call in (aprnb.plan_conversion, aprnb.convert):
        with pytest.raises(UsageProblem, match="another base: rms_norm_eps was 1e-06 and is 0.5"):
            call(trained, tmp_path / "out.gguf", **options)
    assert aprnb.convert(trained, tmp_path / "out.gguf", other_base=True, **options).tensors > 0


def test_the_recorded_base_converts_without_a_warning_about_it(pocket: Path, trained: Path, tmp_path: Path) -> None:
    assert aprnb.convert(trained, tmp_path / "out.gguf", base=pocket).warnings == ()


def test_a_base_in_another_format_is_not_comparable_which_is_said(pocket: Path, trained: Path, tmp_path: Path) -> None:
    aprnb.convert(pocket, tmp_path / "pocket.gguf")
    found = aprnb.convert(trained, tmp_path / "out.gguf", base=tmp_path / "pocket.gguf")
    (warning,) = found.warnings
    assert "pocket.gguf names its tensors otherwise than the base of the training (pocket-qwen3.apr)" in warning
    given = aprnb.convert(trained, tmp_path / "out.gguf", base=tmp_path / "pocket.gguf", other_base=True, force=True)
    assert given.warnings == ()


def test_other_base_without_an_adapter_is_rejected(pocket: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="--other-base, and .* is not an adapter"):
        aprnb.convert(pocket, tmp_path / "out.gguf", other_base=True)


def test_other_settings_are_named_at_the_merge(pocket: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="another base: rms_norm_eps was 1e-06 and is 0.5"):
        merge(pocket, trained, tmp_path / "out.apr", overrides={"rms_norm_eps": 0.5})


def test_a_file_that_states_other_settings_is_named_at_the_merge(pocket: Path, trained: Path, tmp_path: Path) -> None:
    metadata = {**aprnb.open(pocket).metadata, "rms_norm_eps": 0.5}
    pocket.write_bytes(apr_bytes.with_metadata(pocket.read_bytes(), metadata))
    with pytest.raises(UsageProblem, match="another base: rms_norm_eps was 1e-06 and is 0.5"):
        merge(pocket, trained, tmp_path / "out.apr")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(300 << 20)


def document(value: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(value))


def text(value: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(value)


HASH = "0" * 64
RECORDS: dict[str, Callable[[Path], object]] = {
    "a pipe": pipe,
    "a folder": folder,
    "a link to a device": link,
    "a sparse file": sparse,
    "empty": text(""),
    "not JSON": text("{"),
    "nested deeply": text("[" * 200_000),
    "NaN": text('{"base": NaN}'),
    "half of a surrogate pair": text('{"base": {"architecture": {"a": "\\ud800"}, "tensors": {}}}'),
    "a base twice": text('{"base": 1, "base": 2}'),
    "a list": document([]),
    "no base": document({"files": []}),
    "null as the base": document({"base": None}),
    "a list as the base": document({"base": []}),
    "no tensors": document({"base": {"architecture": {}}}),
    "no architecture": document({"base": {"tensors": {}}}),
    "a list of tensors": document({"base": {"architecture": {}, "tensors": [HASH]}}),
    "a list as the architecture": document({"base": {"architecture": [], "tensors": {}}}),
    "a hash that is a number": document({"base": {"architecture": {}, "tensors": {"a": 1}}}),
    "a hash that is short": document({"base": {"architecture": {}, "tensors": {"a": HASH[1:]}}}),
    "a hash that is long": document({"base": {"architecture": {}, "tensors": {"a": HASH + "0"}}}),
    "a hash in capitals": document({"base": {"architecture": {}, "tensors": {"a": "A" * 64}}}),
    "a hash with a line break": document({"base": {"architecture": {}, "tensors": {"a": HASH + "\n"}}}),
    "a hash of Arabic digits": document({"base": {"architecture": {}, "tensors": {"a": "\u0660" * 64}}}),
}


@way("a malformed record of an adapter's base")
@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_the_base_that_is_malformed_is_rejected(trained: Path, tmp_path: Path, name: str) -> None:
    adapter = Path(shutil.copytree(trained, tmp_path / "x.adapter"))
    (adapter / "aprnb.json").unlink()
    RECORDS[name](adapter / "aprnb.json")
    with pytest.raises(CheckpointError, match=r"aprnb\.json"):
        recorded_base(adapter)


def test_a_record_that_is_a_link_to_another_adapters_is_rejected(trained: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(trained, tmp_path / "x.adapter"))
    (adapter / "aprnb.json").unlink()
    (adapter / "aprnb.json").symlink_to(trained / "aprnb.json")
    with pytest.raises(CheckpointError, match="is a link"):
        recorded_base(adapter)


def with_field(base: dict[str, Any], name: str, value: str) -> dict[str, Any]:
    return {**base, "architecture": {**base["architecture"], name: value}}


EMPTY: dict[str, Any] = {"architecture": {}, "tensors": {}}
OTHERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "nothing": lambda base: EMPTY,
    "no tensors": lambda base: {**base, "tensors": {}},
    "no architecture": lambda base: {**base, "architecture": {}},
    "other hashes": lambda base: {**base, "tensors": dict.fromkeys(base["tensors"], HASH)},
    "a field of ten megabytes": lambda base: with_field(base, "vocab_size", "9" * 10**7),
    "escape sequences": lambda base: with_field(base, "\x1b[2J", "\x1b[2J"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_record_of_another_base_is_rejected_in_a_short_message(
    pocket: Path, trained: Path, tmp_path: Path, name: str
) -> None:
    adapter = Path(shutil.copytree(trained, tmp_path / "x.adapter"))
    record = json.loads((adapter / "aprnb.json").read_text())
    (adapter / "aprnb.json").write_text(json.dumps({**record, "base": OTHERS[name](record["base"])}))
    with pytest.raises(UsageProblem, match="another base") as caught:
        merge(pocket, adapter, tmp_path / "out.apr")
    assert len(str(caught.value)) < 10_000
    assert "\x1b" not in str(caught.value)
    assert not (tmp_path / "out.apr").exists()


@pytest.mark.parametrize(("make", "error"), [(pipe, CheckpointError), (folder, CheckpointError), (None, FileMissing)])
def test_a_base_that_was_removed_is_an_error_of_the_manifest(
    tmp_path: Path, make: Callable[[Path], None] | None, error: type[AprnbError]
) -> None:
    if make is not None:
        make(tmp_path / "base.apr")
    with pytest.raises(error):
        file_sha256(tmp_path / "base.apr")


# End to end


@pytest.fixture(scope="module")
def finished(pocket_qwen3: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step, with its base."""
    home = tmp_path_factory.mktemp("finished")
    shutil.copyfile(pocket_qwen3, home / "pocket.apr")
    finetune(home)
    (home / "out.apr").unlink()
    return home


def finetune(home: Path, base: str = "pocket.apr", **options: Any) -> Any:
    rows = Path(__file__).parents[2] / COW
    settled = {"data": rows, "output": str(home / "out.apr"), "max_steps": 1, "rank": 1, "method": "lora"}
    return aprnb.finetune(home / base, **{**settled, **options})


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "home"))


def resumed(home: Path, **options: Any) -> str:
    """The error of a run that is not resumed; it writes no model."""
    with pytest.raises(AprnbError) as caught:
        finetune(home, resume=True, **options)
    assert not (home / "out.apr").exists()
    return str(caught.value)


def test_a_base_with_a_zeroed_tensor_is_not_resumed(stopped: Path) -> None:
    change(stopped / "pocket.apr", MIDDLE, zeroed)
    found = resumed(stopped)
    assert "the base checkpoint changed since the state was saved: 1 of" in found
    assert f"tensors differ, first {MIDDLE}" in found


def signs_turned(data: bytes) -> bytes:
    """Of every second number of 16 bits: finite, and as large as before."""
    numbers = np.frombuffer(data, "<u2").copy()
    numbers[::2] ^= 0x8000
    return numbers.tobytes()


@pytest.mark.parametrize("name", ["pocket.gguf", "pocket"])
def test_a_base_of_another_format_with_turned_signs_is_not_resumed(
    pocket_qwen3: Path, tmp_path: Path, name: str
) -> None:
    aprnb.convert(pocket_qwen3, tmp_path / name)
    finetune(tmp_path, name, adapter_only=True)
    tensor = middle_of(tmp_path / name)
    change(tmp_path / name, tensor, signs_turned)
    with pytest.raises(UsageProblem, match=rf"the base checkpoint changed since .*: 1 of \d+ tensors.* {tensor}"):
        finetune(tmp_path, name, adapter_only=True, resume=True, epochs=2, max_steps=2)


def test_a_base_that_states_other_settings_is_not_resumed(stopped: Path) -> None:
    base = stopped / "pocket.apr"
    metadata = {**aprnb.open(base).metadata, "rms_norm_eps": 0.001}
    base.write_bytes(apr_bytes.with_metadata(base.read_bytes(), metadata))
    assert "rms_norm_eps was 1e-06 and is 0.001" in resumed(stopped)


def test_other_overrides_are_not_resumed(stopped: Path) -> None:
    assert "rms_norm_eps was 1e-06 and is 0.001" in resumed(stopped, overrides={"rms_norm_eps": 0.001})


def as_changed(home: Path) -> None:
    content = content_of(home / "pocket.apr")
    (home / "out.run" / "base.json").write_text(json.dumps(content.to_json()))


BASE_RECORDS: dict[str, Callable[[Path], object]] = {
    "missing": lambda home: None,
    "a pipe": lambda home: pipe(home / "out.run" / "base.json"),
    "a link": lambda home: link(home / "out.run" / "base.json"),
    "malformed": lambda home: (home / "out.run" / "base.json").write_text('{"tensors": []}'),
    "that of the changed base": as_changed,
}


@pytest.mark.parametrize("name", BASE_RECORDS)
def test_a_changed_base_is_not_resumed_whatever_the_runs_record_of_it(stopped: Path, name: str) -> None:
    change(stopped / "pocket.apr", MIDDLE, zeroed)
    (stopped / "out.run" / "base.json").unlink()
    BASE_RECORDS[name](stopped)
    assert "base" in resumed(stopped)


@way("a tokenizer that changed between stop and --resume")
def test_a_changed_tokenizer_is_not_resumed(stopped: Path) -> None:
    base = stopped / "pocket.apr"
    metadata = dict(aprnb.open(base).metadata)
    vocabulary = list(metadata["tokenizer.vocabulary"])
    one, other = vocabulary.index("."), vocabulary.index("?")  # tokens that the rows hold
    vocabulary[one], vocabulary[other] = "?", "."
    changed = {**metadata, "tokenizer.vocabulary": vocabulary}
    base.write_bytes(apr_bytes.with_metadata(base.read_bytes(), changed))
    assert "the tokenizer changed since the state was saved" in resumed(stopped)


@way("a chat template that changed between stop and --resume")
def test_a_changed_template_is_not_resumed(pocket: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
    options = {"chat_template": str(template), "adapter_only": True}
    finetune(tmp_path, **options)
    template.write_text("{# the same text #}" + template.read_text())
    assert "the chat template changed since the state was saved" in resumed(tmp_path, **options)


@way("a base that changes while it is trained")
def test_a_base_that_changes_while_it_is_trained_is_not_merged(pocket: Path, tmp_path: Path) -> None:
    def disturb(event: object) -> None:
        if isinstance(event, StepEvent):
            change(pocket, MIDDLE, zeroed)

    with pytest.raises(UsageProblem, match=rf"another base: 1 of \d+ tensors differ, first {MIDDLE}"):
        finetune(tmp_path, listener=disturb)
    assert not (tmp_path / "out.apr").exists()
    assert (tmp_path / "out.adapter" / "aprnb.json").exists()
