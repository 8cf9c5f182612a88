from __future__ import annotations

import pytest

from aprnb.display.document import Column, Table, cell_text, rows_shown
from aprnb.printable import visible


@pytest.mark.parametrize(
    ("value", "text"),
    [(1756036, "1,756,036"), (0.000123456, "0.0001235"), (None, "–"), (True, "yes"), (-0.5, "-0.5"), ("a b", "a b")],
)
def test_a_cell_value_has_one_text(value, text):
    assert cell_text(value) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model.norm.weight", "model.norm.weight"),
        ("gpj\u202egnp", "gpj⟨U+202E⟩gnp"),
        ("\x1b[31mred", "⟨U+001B⟩[31mred"),
        ("a\u200bb", "a⟨U+200B⟩b"),
        ("half \ud800", "half ⟨U+D800⟩"),
        ("two\nlines", "two⟨U+000A⟩lines"),
        ("größe 名前", "größe 名前"),
    ],
)
def test_invisible_characters_are_shown(text, shown):
    assert visible(text) == shown


def test_a_table_over_the_limit_shows_half_of_it_and_counts_the_rest():
    table = Table("t", (Column("n", "right"),), tuple((n,) for n in range(401)), hidden=9)
    rows, hidden = rows_shown(table, 400)
    assert (len(rows), hidden) == (200, 401 - 200 + 9)


def test_a_table_within_the_limit_is_whole():
    table = Table("t", (Column("n", "right"),), tuple((n,) for n in range(400)))
    assert rows_shown(table, 400) == (table.rows, 0)
