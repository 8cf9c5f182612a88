"""Each malformed or malicious file is one error with its position, quickly and in little memory, or harmless."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from registry import TESTED_WAYS, way
from ways import ATTACKS, Attack

import aprnb
from aprnb.errors import AprnbError

DOCS = Path(__file__).parents[2] / "docs" / "threats.md"
SLACK_BYTES = 64 << 20
CHILD = """
import json, sys, time
sys.path.insert(0, sys.argv[2])
import aprnb, aprnb.inspection, aprnb.formats.huggingface.metadata, aprnb.architecture, aprnb.display.html
from aprnb.errors import AprnbError
from aprnb_tests.memory import forget_peak, peak
found = {"error": None, "text": "", "html": ""}
before, began = forget_peak(), time.process_time()
try:
    with aprnb.open(sys.argv[1], verify=True) as checkpoint:
        report = aprnb.inspect(checkpoint)
        found["text"], found["html"] = str(report), report.to_html()
        try:
            aprnb.check(checkpoint)
        except AprnbError as error:
            found["check"] = str(error)
except AprnbError as error:
    found["error"] = {"kinds": [kind.__name__ for kind in type(error).__mro__], **error.to_json()}
print(json.dumps({"seconds": time.process_time() - began, "grown": peak() - before, **found}))
"""
_SEEN: dict[str, dict[str, Any]] = {}


def outcome(one: Attack, folder: Path) -> dict[str, Any]:
    """What a process of its own makes of the attack, with its processor time and memory; run once."""
    if one.way not in _SEEN:
        path = one.make(folder)
        command = [sys.executable, "-c", CHILD, str(path), str(Path(__file__).parents[1])]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr[-2000:]
        files = [path] if path.is_file() else []
        size = sum(file.stat().st_size for file in {*files, *folder.rglob("*")} if file.is_file())
        _SEEN[one.way] = {"size": size, **json.loads(run.stdout)}
    return _SEEN[one.way]


def named(one: Attack) -> str:
    return one.way


@pytest.mark.parametrize("one", ATTACKS, ids=named)
def test_an_attack_ends_in_one_error_of_its_kind_or_is_harmless(tmp_path, one):
    found = outcome(one, tmp_path)
    error = found["error"]
    if one.kind is None:
        assert error is None
        assert not re.search(r"<script>alert|<img src=x|onerror=alert\(1\)>", found["html"])
        hidden = "[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
        assert not re.search(hidden, found["text"].replace("\n", ""))
        assert not re.search(hidden, found["html"].replace("\n", ""))
        assert re.search(one.message, found["text"])
        return
    assert error is not None
    assert re.search(one.message, error["message"]), error["message"]
    assert one.kind.__name__ in error["kinds"]
    assert error["exit_code"] == one.kind.exit_code or one.kind is AprnbError
    assert len(error["message"].split("\n")) <= 2
    assert len(error["message"]) < 700
    if one.has_byte:
        assert re.search(r"bytes? [\d,]+", error["message"]), error["message"]


@pytest.mark.parametrize("one", ATTACKS, ids=named)
def test_an_attack_takes_less_than_a_second_and_twice_its_size_and_64_mb(tmp_path, one):
    found = outcome(one, tmp_path)
    assert found["seconds"] < 1
    assert found["grown"] <= 2 * found["size"] + SLACK_BYTES


def test_the_measure_of_memory_sees_what_is_taken():
    """`ru_maxrss` would not: it starts with what the parent process held."""
    taken = "import sys; sys.path.insert(0, sys.argv[1]); from aprnb_tests.memory import *; b = forget_peak()"
    taken += "; x = b'x' * (50 << 20); print(peak() - b)"
    run = subprocess.run([sys.executable, "-c", taken, str(Path(__file__).parents[1])], capture_output=True, text=True)
    assert 45 << 20 < int(run.stdout) < 60 << 20


def test_the_page_and_the_attacks_are_one_list():
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        import_module(path.stem)  # each registers its ways
    rows = re.findall(r"^\| ([^|]+?) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    listed = [row for row in rows if row not in ("way", "---")]
    assert sorted(listed) == sorted([*(attack.way for attack in ATTACKS), *TESTED_WAYS])


@way("files that change while open")
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
