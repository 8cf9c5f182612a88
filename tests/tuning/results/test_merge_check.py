"""A merged file that is not base + adapter is not kept, however small the adapter; a correct one is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import aprnb
from aprnb import finetune
from aprnb.adapters.config import AdapterConfig
from aprnb.errors import GateError
from aprnb.model.device import place
from aprnb.tuning import write_results
from aprnb.tuning.results import merge as merge_module
from aprnb.tuning.results import merge_check
from aprnb.tuning.results.merge import Merged
from aprnb.tuning.results.merge_check import compare_adapter

DTYPES = ["BF16", "F16", "F32"]
OTHER_WEIGHT = r"differs from (base \+ adapter|the trained weights) by up to"
OTHER_LOGITS = "the merged model's logits differ"
PROBES = [[5, 6, 7, 300, 301, 302], [100, 99, 98]]

Merge = Callable[..., Merged]


@pytest.fixture(scope="module")
def cow(repository: Path) -> Path:
    return repository / "notebooks" / "ask-the-cow.jsonl"


@pytest.fixture(scope="module")
def adapter(pocket_qwen3: Path, cow: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two steps: it moves the logits of the probes by 0.03 of 14."""
    output = tmp_path_factory.mktemp("adapter") / "small.apr"
    run = finetune(
        pocket_qwen3, data=cow, output=output, max_steps=2, batch_size=4, rank=4, adapter_only=True, device="cpu"
    )
    assert run.adapter is not None
    return run.adapter


@pytest.fixture
def merge(pocket_qwen3: Path, adapter: Path, tmp_path: Path) -> Merge:
    """Merges as a run does: with the comparison in a dtype."""
    base = aprnb.open(pocket_qwen3)
    report = aprnb.check(base)

    def merged(dtype: str = "float32", **options: Any) -> Merged:
        check = partial(compare_adapter, report, base, adapter, placement=place("cpu", dtype), probes=PROBES)
        return merge_module.merge(pocket_qwen3, adapter, tmp_path / "out.apr", verify=check, **options)

    return merged


@pytest.mark.parametrize("scale", [0.0, 0.5, 0.95, 1.1, 2.0, -1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merge_at_another_scale_is_not_kept(merge, tmp_path, monkeypatch, scale, dtype) -> None:
    real = AdapterConfig.scale_of
    monkeypatch.setattr(AdapterConfig, "scale_of", lambda config, module: scale * real(config, module))
    with pytest.raises(GateError, match=rf"{OTHER_WEIGHT}|changed no tensor"):
        merge(output_dtype=dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("left_out", ["model.layers.2.self_attn.k_proj.weight", "model.layers.1"])
def test_a_merge_without_a_module_or_a_layer_is_not_kept(merge, monkeypatch, left_out, dtype) -> None:
    real = merge_module.changes_of
    monkeypatch.setattr(
        merge_module, "changes_of",
        lambda *arguments: {name: each for name, each in real(*arguments).items() if not name.startswith(left_out)},
    )  # fmt: skip
    with pytest.raises(GateError, match=rf"{left_out}.*{OTHER_WEIGHT}"):
        merge(output_dtype=dtype)


def test_the_comparison_does_not_rely_on_the_list_of_adapted_layers(merge, monkeypatch) -> None:
    """Where it finds no layer to compare, the logits still differ by the adapter's effect."""
    monkeypatch.setattr(merge_check, "adapted_layers", lambda model: {})
    with pytest.raises(GateError, match=OTHER_LOGITS):
        merge()


@pytest.mark.parametrize("compared", ["bfloat16", "float32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_correct_merge_is_kept_and_states_the_adapters_effect(merge, dtype, compared) -> None:
    check = merge(compared, output_dtype=dtype).check
    assert check.beyond_rounding == 0
    assert 0 < check.adapter_effect < 0.2 * check.logit_range
    # Twice what was measured: how the rounding of a small adapter adds up differs by the number of threads.
    most = {"BF16": 0.7, "F16": 0.13, "F32": 2e-3}[dtype] if compared == "float32" else 2.4
    assert check.max_abs_difference < most * check.adapter_effect


@pytest.mark.parametrize(
    ("base", "method", "output_dtype", "dtype"),
    [
        ("pocket-qwen3-q4k", "lora", "F16", "bfloat16"),
        ("pocket-qwen3-q4k", "qlora", "F16", "float32"),
        ("pocket-qwen3", "qlora", "BF16", "bfloat16"),
        ("pocket-qwen3", "full", "F16", "float32"),
        ("pocket-qwen3", "full", "BF16", "bfloat16"),
    ],
)
def test_a_correct_file_of_a_run_is_kept(real, cow, tmp_path, base, method, output_dtype, dtype) -> None:
    run = finetune(
        real(base), data=cow, output=tmp_path / "out.apr", method=method, output_dtype=output_dtype, dtype=dtype,
        max_steps=2, batch_size=4, device="cpu",
    )  # fmt: skip
    check = run.to_json()["merge_check"]
    assert check["beyond_rounding"] == 0
    assert (check["adapter_effect"] is None) == (method == "full")


def spoil_outputs(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Outputs compute with another final norm than they contain, as with a wrong epsilon in their config."""
    real = merge_check.build_model

    def spoiled(checkpoint: Any, *more: Any) -> Any:
        model: Any = real(checkpoint, *more)
        if checkpoint.path.name == "out.apr":
            model.model.norm.weight.data.mul_(factor)
        return model

    monkeypatch.setattr(merge_check, "build_model", spoiled)


@pytest.mark.parametrize("factor", [1.003, 1.5])
def test_a_merged_file_that_computes_other_logits_is_not_kept(merge, tmp_path, monkeypatch, factor) -> None:
    spoil_outputs(monkeypatch, factor)
    (tmp_path / "out.apr").write_bytes(b"precious")
    with pytest.raises(GateError, match=OTHER_LOGITS):
        merge(force=True)
    assert (tmp_path / "out.apr").read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out.apr"]


@pytest.mark.parametrize(("share", "kept"), [(0.9, True), (1.1, False)])
def test_the_limit_is_a_hundredth_of_the_adapters_effect(share, kept) -> None:
    trained, found = [torch.tensor([[0.0, 100.0]])], [torch.tensor([[0.0, 100.0 + share * 0.02]])]
    if kept:
        assert merge_check._compare(trained, trained, found, effect=2.0).positions == 1
        return
    with pytest.raises(GateError, match=r"up to 0\.022.*expected at most 0\.02, from the adapter's effect 2"):
        merge_check._compare(trained, trained, found, effect=2.0)


@pytest.mark.parametrize(("difference", "kept"), [(0.9e-3, True), (1.1e-3, False), (float("nan"), False)])
def test_the_limit_of_full_training_is_a_hundred_thousandth_of_the_range(difference, kept) -> None:
    trained, found = [torch.tensor([[0.0, 100.0]])], [torch.tensor([[difference, 100.0]])]
    if kept:
        assert merge_check._compare(trained, trained, found).beyond_rounding == pytest.approx(difference)
        return
    with pytest.raises(GateError, match=r"from the logits' range 100"):
        merge_check._compare(trained, trained, found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_with_half_of_what_full_training_changed_is_not_kept(
    pocket_qwen3, cow, tmp_path, monkeypatch, dtype
) -> None:
    before = dict(aprnb.load(pocket_qwen3, device="cpu")[0].named_parameters())
    real = write_results.write_trained

    def halved(checkpoint: Any, report: Any, weights: Any, *others: Any) -> Any:
        return real(checkpoint, report, {name: (one + before[name]) / 2 for name, one in weights.items()}, *others)

    monkeypatch.setattr(write_results, "write_trained", halved)
    with pytest.raises(GateError, match=OTHER_WEIGHT):
        finetune(pocket_qwen3, data=cow, output=tmp_path / "out.apr", method="full", max_steps=2, output_dtype=dtype)
    assert not (tmp_path / "out.apr").exists()


def test_a_fully_trained_file_that_computes_other_logits_is_not_kept(pocket_qwen3, cow, tmp_path, monkeypatch) -> None:
    spoil_outputs(monkeypatch, 1.0001)
    with pytest.raises(GateError, match=OTHER_LOGITS):
        finetune(pocket_qwen3, data=cow, output=tmp_path / "out.apr", method="full", max_steps=2, output_dtype="F32")
