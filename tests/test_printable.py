from __future__ import annotations

import pytest

from aprnb.printable import and_more, first_names


@pytest.mark.parametrize(("hidden", "text"), [(-2, ""), (0, ""), (1, "and 1 more"), (1234, "and 1,234 more")])
def test_what_is_not_shown_is_counted(hidden: int, text: str) -> None:
    assert and_more(hidden) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (1, "n0"), (3, "n0, n1, n2"), (4, "n0, n1, n2 and 1 more"), (1003, "n0, n1, n2 and 1,000 more")],
)
def test_the_first_names_are_shown_and_the_rest_is_counted(count: int, text: str) -> None:
    assert first_names([f"n{number}" for number in range(count)], 3) == text
