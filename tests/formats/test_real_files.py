"""Files written by the real tool: every byte and every decoded value."""

import hashlib
import json
from pathlib import Path

import pytest

import aprnb

GOLDEN = sorted(path.stem for path in (Path(__file__).parents[1] / "data" / "real").glob("*.json"))


@pytest.mark.parametrize("name", GOLDEN)
def test_every_tensor_decodes_to_the_golden_values(real, golden, name):
    expected = golden(name)
    with aprnb.open(real(name), verify=True) as checkpoint:
        assert len(checkpoint) == expected["header"]["tensor_count"]
        for tensor in expected["tensors"]:
            entry = checkpoint.tensors[tensor["name"]]
            assert (list(entry.shape), entry.offset, entry.size_bytes) == (
                tensor["shape"],
                tensor["offset"],
                tensor["size_bytes"],
            )
            assert hashlib.sha256(checkpoint.raw(entry.name)).hexdigest() == tensor["raw_sha256"]
            if "decoded" in tensor:
                values = checkpoint[entry.name]
                assert values.shape == entry.shape
                assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == tensor["decoded"]["sha256_f32"]


def test_a_head_without_bytes_is_not_handed_out(pocket_qwen3):
    with aprnb.open(pocket_qwen3) as checkpoint, pytest.raises(aprnb.AprnbError, match="tied to the embedding"):
        checkpoint["lm_head.weight"]


def test_files_without_footer_or_layout_flag_open_with_a_warning(real):
    checkpoint = aprnb.open(real("gguf-qwen2-q8_0-preserve"), verify=True)
    assert checkpoint.contents.checksums["footer"] == "absent"
    assert any("layout" in warning for warning in checkpoint.warnings)


@pytest.mark.parametrize("name", ["golden_v1", "mnist_784x2"])
def test_version_1_containers_are_refused_by_name(foreign, name):
    with pytest.raises(aprnb.AprnbError, match=r"APRN.*version 1") as caught:
        aprnb.open(foreign / f"{name}.apr")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["slice_model", "golden_v2", "golden_v2_skip_none"])
def test_other_models_of_the_format_open(foreign, name):
    assert len(aprnb.open(foreign / f"{name}.apr", verify=True))


def test_the_golden_json_is_of_the_files_here(real, golden):
    for name in GOLDEN[:3]:
        assert json.dumps(golden(name)["true_architecture"])
