"""Full shapes, both ways, before a weight is read."""

import pytest

import aprnb
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.dtypes import BY_NAME, F32


def spoiled(source, target, change):
    """A copy of a real file after `change(name, entry)`, which gives a tensor's new entry or None to leave it out."""
    checkpoint = aprnb.open(source)
    tensors = []
    for name, entry in checkpoint.tensors.items():
        if entry.size_bytes:
            tensors += change(TensorSource(name, entry.dtype, entry.shape, lambda n=name: checkpoint.raw(n)))
    write_apr(target, checkpoint.metadata, tensors)
    return aprnb.check(target)


def test_a_missing_and_an_unexpected_tensor_are_named(pocket_qwen3, tmp_path):
    gone, odd = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.odd.weight"
    report = spoiled(
        pocket_qwen3,
        tmp_path / "x.apr",
        lambda t: [TensorSource(odd, t.dtype, t.shape, t.load)] if t.name == gone else [t],
    )
    assert {(v.tensor, v.kind) for v in report.violations} == {(gone, "missing"), (odd, "unexpected")}
    assert "[intermediate_size, hidden_size] = [384, 128]" in report.violations[0].expected


def test_a_transposed_matrix_is_a_wrong_shape_although_its_count_is_right(pocket_qwen3, tmp_path):
    name = "model.layers.2.mlp.down_proj.weight"
    report = spoiled(
        pocket_qwen3,
        tmp_path / "x.apr",
        lambda t: [TensorSource(t.name, t.dtype, t.shape[::-1], t.load)] if t.name == name else [t],
    )
    (violation,) = report.violations
    assert (violation.tensor, violation.kind) == (name, "shape")
    assert "[hidden_size, intermediate_size] = [128, 384]" in violation.expected
    assert "[384, 128] (transposed)" in violation.found


def test_an_integer_tensor_has_the_wrong_dtype(pocket_qwen3, tmp_path):
    report = spoiled(
        pocket_qwen3,
        tmp_path / "x.apr",
        lambda t: (
            [TensorSource(t.name, BY_NAME["I32"], t.shape, lambda: bytes(512))]
            if t.name == "model.norm.weight"
            else [t]
        ),
    )
    assert [(v.tensor, v.kind, v.found) for v in report.violations] == [("model.norm.weight", "dtype", "I32")]


def test_a_head_without_bytes_in_an_untied_model_lacks_its_extent(pocket_qwen3):
    with pytest.raises(
        aprnb.AprnbError,
        match="tie_word_embeddings is True, derived from lm_head.weight with 0 bytes, False according to --set",
    ):
        aprnb.check(pocket_qwen3, overrides={"tie_word_embeddings": False})


def test_the_error_names_ten_tensors_in_full_and_the_rest_by_name(pocket_qwen3, tmp_path):
    report = spoiled(
        pocket_qwen3, tmp_path / "x.apr", lambda t: [] if "mlp" in t.name or "self_attn.q" in t.name else [t]
    )
    assert len(report.violations) == 15
    with pytest.raises(aprnb.AprnbError) as caught:
        report.raise_for_violations()
    text = str(caught.value)
    assert text.count("missing: expected") == 10
    assert "and 5 more:" in text
    assert all(violation.tensor in text for violation in report.violations)


def test_no_torch_is_needed_for_a_verdict(pocket_qwen3):
    import subprocess
    import sys

    program = f"import sys, aprnb; assert aprnb.check({str(pocket_qwen3)!r}).ok; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_f32_is_what_the_table_says():
    assert F32.sizes_bytes((2, 3)) == (24,)


def test_a_head_without_bytes_has_no_extent_for_an_untied_architecture(pocket_qwen3):
    from dataclasses import replace

    from aprnb.architecture import check_contract

    checkpoint = aprnb.open(pocket_qwen3)
    report = check_contract(checkpoint, replace(checkpoint.architecture, tie_word_embeddings=False))
    (violation,) = report.violations
    assert (violation.tensor, violation.kind, violation.found) == ("lm_head.weight", "extent", "0 bytes")
    assert violation.expected == "524,288 bytes"  # 1024 · 128 F32
