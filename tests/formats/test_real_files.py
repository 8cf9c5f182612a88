"""Files written by the real tool: every byte and every decoded value."""

import hashlib
import json
import zlib
from pathlib import Path

import pytest

import aprnb
from aprnb.formats.dtypes import CODES
from aprnb_tests.apr_bytes import entry, front, pad, with_checksum

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


def test_a_head_without_bytes_cannot_be_read(pocket_qwen3):
    with aprnb.open(pocket_qwen3) as checkpoint, pytest.raises(aprnb.AprnbError, match="tied to the embedding"):
        checkpoint["lm_head.weight"]


def test_files_without_footer_or_layout_flag_open_with_a_warning(real):
    checkpoint = aprnb.open(real("gguf-qwen2-q8_0-preserve"), verify=True)
    assert checkpoint.contents.checksums["footer"] == "absent"
    assert any("layout" in warning for warning in checkpoint.warnings)


@pytest.mark.parametrize("name", ["golden_v1", "mnist_784x2"])
def test_version_1_containers_are_an_error_that_names_them(foreign, name):
    with pytest.raises(aprnb.AprnbError, match=r"APRN.*version 1") as caught:
        aprnb.open(foreign / f"{name}.apr")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["slice_model", "golden_v2", "golden_v2_skip_none"])
def test_other_models_of_the_format_open(foreign, name):
    assert len(aprnb.open(foreign / f"{name}.apr", verify=True))


def test_the_golden_json_is_of_the_files_here(real, golden):
    for name in GOLDEN[:3]:
        assert json.dumps(golden(name)["true_architecture"])


def packed_lz4(data: bytes) -> bytes:
    import lz4.block

    return lz4.block.compress(data, store_size=True)


def packed_zstandard(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize(("flag", "pack"), [(1, packed_lz4), (2, packed_zstandard)], ids=["lz4", "zstandard"])
def test_a_real_file_packed_by_the_real_library_is_the_same_checkpoint(pocket_qwen3, tmp_path, flag, pack):
    plain = pocket_qwen3.read_bytes()
    head = with_checksum(plain[:6] + bytes((flag, 4)) + plain[8:64])
    body = plain[64:-4]
    image = body + zlib.crc32(head + body).to_bytes(4, "little")
    (tmp_path / "packed.apr").write_bytes(head + pack(image))
    with aprnb.open(tmp_path / "packed.apr", strict=True, verify=True) as packed, aprnb.open(pocket_qwen3) as source:
        assert packed.tensors == source.tensors
        assert packed.metadata == source.metadata
        assert all(packed.raw(name) == source.raw(name) for name in source)
        assert aprnb.check(packed).ok


def shards_of(path: Path, folder: Path, count: int = 2) -> Path:
    """The file's tensors dealt out to complete files, and their manifest."""
    with aprnb.open(path) as source:
        dealt = [[name for at, name in enumerate(source) if at % count == number] for number in range(count)]
        listed = []
        for number, names in enumerate(dealt):
            entries, data = [], b""
            for name in names:
                tensor, payload = source.tensors[name], source.raw(name)
                entries.append(entry(name, CODES[tensor.dtype.name], tensor.shape, len(data), len(payload)))
                data += pad(payload)
            stated = {**source.metadata, "sharding": {"shard_count": count, "shard_index": number}}
            body = front(stated, entries, flags=0x0410) + data
            file = folder / f"model-{number + 1:05}-of-{count:05}.apr"
            file.write_bytes(body + zlib.crc32(body).to_bytes(4, "little"))
            listed.append({"filename": file.name, "index": number, "size": len(body) + 4, "tensors": names})
    manifest = {"version": "2.0", "shard_count": count, "shards": listed}
    manifest["weight_map"] = {name: number for number, names in enumerate(dealt) for name in names}
    (folder / "model.json").write_text(json.dumps(manifest))
    return folder / "model.json"


def test_a_real_file_in_shards_is_the_same_checkpoint(pocket_qwen3, tmp_path):
    with aprnb.open(shards_of(pocket_qwen3, tmp_path), strict=True) as joined, aprnb.open(pocket_qwen3) as source:
        assert all(joined.raw(name) == source.raw(name) for name in source)
        assert aprnb.check(joined).ok


def test_a_shard_alone_breaks_its_contract_which_names_what_the_others_hold(pocket_qwen3, tmp_path):
    shards_of(pocket_qwen3, tmp_path)
    with aprnb.open(tmp_path / "model-00002-of-00002.apr") as shard:
        assert "shard_index 1 of 2" in shard.warnings[0]
        there = set(shard)
        report = aprnb.check(shard)
    assert not report.ok
    missing = {violation.tensor for violation in report.violations if violation.kind == "missing"}
    with aprnb.open(pocket_qwen3) as source:
        assert missing == set(source) - there - {"lm_head.weight"}  # the tied head is not a tensor of the model
