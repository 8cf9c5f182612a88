"""Names of files, taken by Tab into a magic line; tests/notebook/test_completion.py tries any name and any prefix."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from registry import way
from ways_sidecars import POCKET

EXPRESSION = "{open('X','w').write('x')}.apr"


def offered(shell, line: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the completer calls itself provisional
        return [found.text for found in shell.Completer.completions(line, len(line))]


@way("a file's name that is an expression, completed and run")
@pytest.mark.parametrize(
    "name",
    ['{open("X","w").write("x")}.apr', '{open("X","w").write("x")} x.apr', "$HOME.apr", "`touch X`.apr", "$(X).apr"],
)
@pytest.mark.parametrize("typed", ["%apr_inspect ", "%apr_inspect '", 'r = %apr_inspect "', "%apr_check "])
def test_a_completed_name_is_only_a_name(shell, tmp_path, monkeypatch, name, typed):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(POCKET.read_bytes())
    start = typed.rstrip("'\"")
    for text in offered(shell, typed):
        if "apr" in text and not text.startswith(("%", "--")):
            shell.run_cell(f"{start}{text}")
    assert not Path("X").exists()


@way("a file's name that is an option or hides characters")
@pytest.mark.parametrize(
    ("name", "shown"),
    [("--verify.apr", "./--verify.apr"), ("a\nb.apr", None), ("a\x1b[2J.apr", None), ("\u202eapr.x.apr", None),
     ("it's.apr", None), ("\udcff.apr", None), (EXPRESSION, None)],
)  # fmt: skip
def test_a_name_is_not_an_option_and_what_cannot_be_shown_is_not_offered(shell, tmp_path, monkeypatch, name, shown):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"x")
    found = [text for text in offered(shell, "%apr_inspect ") if text.rstrip("'\"").endswith(".apr")]
    assert found == ([shown] if shown else [])
