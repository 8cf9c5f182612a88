"""Files of every known writer open with their warnings, or are an error that names them; `strict` rejects both."""

import re

import pytest

import aprnb
from aprnb.errors import MissingExtra, OutputError, UnsupportedFormat
from aprnb_tests.apr_bytes import entry
from aprnb_tests.producers import HEADERS, INDEXES, METADATA_CASES, SOUND, Case, whole
from aprnb_tests.producers_of_codes import CODES
from aprnb_tests.producers_of_containers import LZ4_FILE, PACKED, RELATIVES, ZSTANDARD_FILE
from aprnb_tests.rewrite import rewrite

CASES = [*SOUND, *HEADERS, *INDEXES, *METADATA_CASES, *CODES, *PACKED, *RELATIVES]
OPEN, REJECTED = [case for case in CASES if not case.rejected], [case for case in CASES if case.rejected]


def written(case: Case, tmp_path):
    path = tmp_path / "file.apr"
    path.write_bytes(case.data)
    return path


def test_every_case_has_its_own_name_and_a_reason():
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.reason and case.data for case in CASES)


@pytest.mark.parametrize("case", OPEN, ids=lambda case: case.name)
def test_it_opens_with_its_values_and_exactly_its_warnings(case, tmp_path):
    with aprnb.open(written(case, tmp_path), verify=True) as checkpoint:
        assert {name: checkpoint[name].ravel().tolist() for name in checkpoint} == dict(case.values)
        assert len(checkpoint.warnings) == len(case.warnings), checkpoint.warnings
        for pattern, warning in zip(case.warnings, checkpoint.warnings, strict=True):
            assert re.search(pattern, warning), warning
        assert case.metadata.items() <= checkpoint.metadata.items()


@pytest.mark.parametrize("case", OPEN, ids=lambda case: case.name)
def test_every_warning_names_a_byte_and_strict_rejects_it(case, tmp_path):
    path = written(case, tmp_path)
    if not case.warnings:
        aprnb.open(path, strict=True).close()
        return
    with pytest.raises(aprnb.AprnbError, match=r"(?s)strict.*\bbyte [\d,]+") as caught:
        aprnb.open(path, strict=True)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("case", REJECTED, ids=lambda case: case.name)
def test_it_is_an_error_that_names_it_and_its_place(case, tmp_path):
    with pytest.raises(aprnb.AprnbError, match=f"(?s){case.rejected}") as caught:
        aprnb.open(written(case, tmp_path))
    assert caught.value.exit_code == 4
    assert len(str(caught.value).split("\n")) <= 2


@pytest.mark.parametrize("case", [case for case in RELATIVES if case.facts], ids=lambda case: case.name)
def test_the_header_of_a_legacy_container_is_reported(case, tmp_path):
    with pytest.raises(UnsupportedFormat) as caught:
        aprnb.open(written(case, tmp_path))
    assert case.facts.items() <= caught.value.facts.items()


@pytest.mark.parametrize(("module", "data"), [("lz4.block", LZ4_FILE), ("zstandard", ZSTANDARD_FILE)])
def test_a_packed_file_without_its_package_names_the_extra(tmp_path, monkeypatch, module, data):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    (tmp_path / "x.apr").write_bytes(data)
    with pytest.raises(MissingExtra, match=r"aprnb\[compression\]"):
        aprnb.open(tmp_path / "x.apr")


@pytest.mark.parametrize("cut", [9, 31, 33, 51])
def test_a_legacy_container_cut_inside_its_header_is_still_named(tmp_path, cut):
    for case in RELATIVES[:4]:
        (tmp_path / "x.apr").write_bytes(case.data[:cut])
        with pytest.raises(UnsupportedFormat, match=case.rejected):
            aprnb.open(tmp_path / "x.apr")


REJECTED_TO_WRITE = {
    *("null and an alias", "float32 noise in an alias", "a name of 300 bytes"),
    *("quantization as text", "a size as text", "model_type null", "spaces in the JSON"),
}
"""What opens with a warning and would make the real tool reject or forget."""


@pytest.mark.parametrize("case", OPEN, ids=lambda case: case.name)
def test_written_again_it_holds_the_same_tensors_and_metadata(case, tmp_path):
    with aprnb.open(written(case, tmp_path)) as source:
        if case.name in REJECTED_TO_WRITE:
            with pytest.raises(OutputError):
                rewrite(source, tmp_path / "again.apr")
            return
        rewrite(source, tmp_path / "again.apr")
        with aprnb.open(tmp_path / "again.apr", verify=True) as again:
            assert again.metadata == source.metadata
            assert {name: (entry.dtype, entry.shape) for name, entry in again.tensors.items()} == {
                name: (entry.dtype, entry.shape) for name, entry in source.tensors.items()
            }
            assert all(again.raw(name) == source.raw(name) for name in source)


def test_a_name_cannot_break_a_message_into_lines(tmp_path):
    twice = entry("x\n\x1b[31m" * 100, 0, (4,), 0, 16)
    (tmp_path / "x.apr").write_bytes(whole(entries=(twice, twice)))
    with pytest.raises(aprnb.AprnbError, match=r"x\\n\\x1b.*… is listed twice") as caught:
        aprnb.open(tmp_path / "x.apr")
    assert len(str(caught.value)) < 300
