"""A real IPython shell with the extension loaded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def bare_shell():
    pytest.importorskip("IPython")
    from IPython.testing.globalipapp import start_ipython

    return start_ipython()


@pytest.fixture
def shell(bare_shell) -> Iterator[object]:
    bare_shell.run_line_magic("load_ext", "aprnb")
    yield bare_shell
    bare_shell.run_line_magic("unload_ext", "aprnb")
