"""A container that is not supported is still shown, as far as its header goes."""

import json

import pytest

import aprnb
from aprnb.inspection import UnsupportedReport
from aprnb_tests.producers_of_containers import RELATIVES


@pytest.mark.parametrize("case", [case for case in RELATIVES if case.facts], ids=lambda case: case.name)
def test_the_report_shows_the_error_and_the_header(case, tmp_path):
    (tmp_path / "x.apr").write_bytes(case.data)
    report = aprnb.inspect(tmp_path / "x.apr")
    assert isinstance(report, UnsupportedReport)
    assert not report.ok
    assert report.exit_code == 4
    assert case.facts.items() <= json.loads(json.dumps(report.to_json()))["header"].items()
    for name, value in case.facts.items():
        assert name in str(report)
        assert value in str(report)
        assert value in report.to_html()


def test_a_file_of_another_kind_has_no_header_to_show(tmp_path):
    (tmp_path / "x.apr").write_bytes(b"PK\3\4" + bytes(64))
    with pytest.raises(aprnb.AprnbError, match="zip archive"):
        aprnb.inspect(tmp_path / "x.apr")


def test_a_legacy_container_is_rejected_by_everything_that_needs_tensors(foreign):
    for work in (aprnb.open, aprnb.check):
        with pytest.raises(aprnb.AprnbError, match=r"APRN.*version 1"):
            work(foreign / "golden_v1.apr")
