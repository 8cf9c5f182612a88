"""One model in several files: a manifest joins complete shards; where it does not fit them, the error says so."""

import copy
import json
import struct

import pytest

import aprnb
from aprnb_tests.apr_bytes import entry, pad
from aprnb_tests.producers import METADATA, whole

A, B = struct.pack("<4f", 1, 2, 3, 4), struct.pack("<2f", 5, 6)
NAMES = ["model-00001-of-00002.apr", "model-00002-of-00002.apr"]
MANIFEST = {
    "version": "2.0",
    "shard_count": 2,
    "total_size": 24,
    "tensor_count": 2,
    "shards": [
        {"filename": NAMES[0], "index": 0, "size": 16, "tensors": ["a"]},
        {"filename": NAMES[1], "index": 1, "size": 8, "tensors": ["b"]},
    ],
    "weight_map": {"a": 0, "b": 1},
}


def shard(number: int, name: str, payload: bytes, **metadata) -> bytes:
    stated = {**METADATA, "sharding": {"shard_count": 2, "shard_index": number}, **metadata}
    return whole(stated, (entry(name, 0, (len(payload) // 4,), 0, len(payload)),), pad(payload), flags=0x0410)


def written(folder, manifest=MANIFEST, shards=None):
    for name, data in zip(NAMES, shards or (shard(0, "a", A), shard(1, "b", B)), strict=True):
        (folder / name).write_bytes(data)
    path = folder / "model.json"
    path.write_text(json.dumps(manifest, indent=2))
    return path


def test_a_manifest_opens_its_shards_as_one_checkpoint(tmp_path):
    with aprnb.open(written(tmp_path), strict=True, verify=True) as checkpoint:
        assert {name: checkpoint[name].tolist() for name in checkpoint} == {"a": [1, 2, 3, 4], "b": [5, 6]}
        assert [checkpoint.tensors[name].file for name in ("a", "b")] == [0, 1]
        assert checkpoint.metadata == METADATA
        assert checkpoint.contents.checksums == {"header": "ok", "footer": "ok"}
        assert checkpoint.size_bytes == sum((tmp_path / name).stat().st_size for name in NAMES)


def test_a_shard_alone_opens_and_says_what_it_is(tmp_path):
    written(tmp_path)
    with aprnb.open(tmp_path / NAMES[1]) as checkpoint:
        assert list(checkpoint) == ["b"]
        assert "shard_index 1 of 2" in checkpoint.warnings[0]


def test_a_warning_about_a_shard_names_the_shard(tmp_path):
    second = shard(1, "b", B)[:-4]  # the footer is gone
    path = written(tmp_path, shards=(shard(0, "a", A), second))
    assert aprnb.open(path).warnings == (
        f"{NAMES[1]}: the footer checksum is missing (byte {len(second)}): the file cannot be checked for completeness",
    )


@pytest.mark.parametrize(
    ("without_footer", "verify", "footer"),
    [((), True, "ok"), ((), False, "not checked"), ((1,), True, "absent"), ((0,), False, "absent")],
)
def test_the_worst_of_the_shards_checksums_is_that_of_the_whole(tmp_path, without_footer, verify, footer):
    shards = [shard(0, "a", A), shard(1, "b", B)]
    for number in without_footer:
        shards[number] = shards[number][:-4]
    with aprnb.open(written(tmp_path, shards=shards), verify=verify) as checkpoint:
        assert checkpoint.contents.checksums == {"header": "ok", "footer": footer}


def test_a_warning_is_left_out_by_its_kind_and_not_by_its_text(tmp_path):
    """The warning about the tensor's place, byte 4 of the data, contains a name from the file."""
    name = "one shard of several"
    stated = {**METADATA, "sharding": {"shard_count": 2, "shard_index": 0}}
    odd = whole(stated, (entry(name, 0, (4,), 4, len(A)),), bytes(4) + pad(A)[:-4], flags=0x0410)
    manifest = copy.deepcopy(MANIFEST)
    manifest["shards"][0]["tensors"], manifest["weight_map"] = [name], {name: 0, "b": 1}
    warnings = aprnb.open(written(tmp_path, manifest, (odd, shard(1, "b", B)))).warnings
    assert any(name in warning for warning in warnings)


def spoilt(**changes):
    return {**copy.deepcopy(MANIFEST), **changes}


def renamed(filename):
    manifest = copy.deepcopy(MANIFEST)
    manifest["shards"][1]["filename"] = filename
    return manifest


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (spoilt(version="3.0"), "version 3.0"),
        (spoilt(shard_count=3), "lists 2 shards, but its shard_count is 3"),
        (spoilt(shards="two"), "lists no shards"),
        (spoilt(shards=[MANIFEST["shards"][0]] * 2), r"numbers its shards \[0, 0\]"),
        (spoilt(shards=[1, 2]), "lists a shard as 1"),
        (spoilt(weight_map={"a": 0, "b": 0}), "weight_map that is not"),
        (renamed("../other.apr"), "names the shard '../other.apr'"),
        (renamed("/etc/passwd"), "names the shard '/etc/passwd'"),
        (renamed(".."), "names the shard '..'"),
        (renamed("a\0b"), "names the shard"),
        (renamed("missing.apr"), "no file at"),
        (renamed("model.json"), "is a text file"),
        (renamed(NAMES[0]), "disagree"),
    ],
)
def test_a_false_manifest_is_rejected(tmp_path, manifest, message):
    with pytest.raises(aprnb.AprnbError, match=message):
        aprnb.open(written(tmp_path, manifest))


def test_a_link_out_of_the_folder_is_rejected(tmp_path):
    (tmp_path / "in").mkdir()
    path = written(tmp_path / "in", renamed("link.apr"))
    (tmp_path / "outside.apr").write_bytes(shard(1, "b", B))
    (tmp_path / "in" / "link.apr").symlink_to(tmp_path / "outside.apr")
    with pytest.raises(aprnb.AprnbError, match="a file in its own folder"):
        aprnb.open(path)


def test_a_shard_with_other_tensors_than_promised_is_rejected(tmp_path):
    with pytest.raises(aprnb.AprnbError, match="disagree: b is only in the manifest"):
        aprnb.open(written(tmp_path, shards=(shard(0, "a", A), shard(1, "c", B))))


def test_shards_of_two_models_are_rejected(tmp_path):
    other = shard(1, "b", B, hidden_size=8)
    path = written(tmp_path, shards=(shard(0, "a", A, hidden_size=4), other))
    with pytest.raises(aprnb.AprnbError, match="disagree on hidden_size"):
        aprnb.open(path)
