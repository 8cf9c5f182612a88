"""Each way in which a file can lie ends in one error that says where, quickly, in little memory; or is harmless."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ways import ATTACKS, Attack

import aprnb
from aprnb.errors import AprnbError

DOCS = Path(__file__).parents[2] / "docs" / "threats.md"
SLACK_BYTES = 64 << 20
MEASURE = """
import resource, sys, time
import aprnb, aprnb.inspection, aprnb.formats.huggingface_metadata
from aprnb.errors import AprnbError
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try:
    report = aprnb.inspect(aprnb.open(sys.argv[1], verify=True))
    str(report), report.to_html()
except AprnbError:
    pass
print(time.perf_counter() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def named(one: Attack) -> str:
    return one.way


@pytest.mark.parametrize("one", ATTACKS, ids=named)
def test_an_attack_ends_in_one_error_of_its_kind_or_is_harmless(tmp_path, one):
    path = one.make(tmp_path)
    if one.kind is None:
        report = aprnb.inspect(aprnb.open(path, verify=False))
        card, text = report.to_html(), str(report)
        assert not re.search(r"<script>alert|<img src=x|onerror=alert\(1\)>", card)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text.replace("\n", ""))
        return
    with pytest.raises(AprnbError, match=one.message) as caught:
        aprnb.open(path, verify=True)
    assert isinstance(caught.value, one.kind)
    assert len(str(caught.value).split("\n")) <= 2
    assert len(str(caught.value)) < 700
    if one.has_byte:
        assert re.search(r"bytes? [\d,]+", str(caught.value)), str(caught.value)


@pytest.mark.parametrize("one", ATTACKS, ids=named)
def test_an_attack_takes_less_than_a_second_and_twice_its_size_and_64_mb(tmp_path, one):
    path = one.make(tmp_path)
    run = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr[-2000:]
    seconds, grown = map(float, run.stdout.split())
    size = path.stat().st_size if path.is_file() else 0
    assert seconds < 1
    assert grown <= 2 * size + SLACK_BYTES


def test_the_page_and_the_attacks_are_one_list():
    rows = re.findall(r"^\| ([^|]+?) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    elsewhere = {"way", "---", "templates that are programs", "files that change while open"}
    listed = [row for row in rows if row not in elsewhere]
    assert sorted(listed) == sorted(attack.way for attack in ATTACKS)


def test_files_that_change_while_open_are_errors_or_other_values_but_no_crash(tmp_path):
    from aprnb_tests.apr_bytes import small_file

    path = tmp_path / "x.apr"
    path.write_bytes(small_file())
    checkpoint = aprnb.open(path)
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            path.write_bytes(small_file()[: 300 + int(time.monotonic() * 1000) % 200])

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(300):
            try:
                checkpoint["a"]
            except AprnbError as error:
                assert "became shorter" in str(error)
    finally:
        stop.set()
        thread.join()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
