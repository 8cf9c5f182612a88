"""Where the tests find real things: the shipped checkpoint, the real `apr` tool, the folder of fixtures."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aprnb_tests.llama_cpp import LlamaCpp

ROOT = Path(__file__).parent.parent
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")  # one with bf16 instructions would train in other numbers
if not os.environ.get("APRNB_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # most tests compare with numbers of a CPU and name no device
if sys.platform == "win32":
    # Terminals, signals, links, pipes and memory limits of POSIX systems, or programs that Windows does not have.
    collect_ignore_glob = [
        "attacks/*", "test_binder.py", "test_cli.py", "test_notebooks.py", "test_unexpected.py",
        "conversion/test_streams.py", "formats/test_atomic.py", "formats/test_folder.py", "formats/test_shards.py",
        "notebook/test_bad_input.py", "tokenizer/test_chat_template.py", "tokenizer/test_tokenizer_process.py",
        "tuning/test_interrupt.py", "tuning/test_run.py", "tuning/test_state.py",
    ]  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """A shell starts what runs in its background with SIGINT ignored; the tests that press it, and what they start,
    need its usual meaning."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def pocket_qwen3() -> Path:
    """The checkpoint that comes with the repository: 3 layers, hidden 128, tied, BF16, trained."""
    return ROOT / "notebooks" / "pocket-qwen3.apr"


@pytest.fixture(scope="session")
def apr_binary() -> Path:
    """The real `apr` tool, from APR_BIN or PATH."""
    named = os.environ.get("APR_BIN")
    if named:
        path = Path(named)
        assert path.is_file(), f"APR_BIN={named} is no file"
        return path
    found = shutil.which("apr")
    if found is None:
        pytest.skip("the real apr tool is not here: set APR_BIN or put apr on PATH")
    return Path(found)


@pytest.fixture(scope="session")
def fixtures_folder() -> Path:
    """Folder of `.apr` files written by the real tool, with their golden values."""
    named = os.environ.get("APRNB_FIXTURES")
    if not named:
        pytest.skip("the folder of real .apr fixtures is not here: set APRNB_FIXTURES")
    path = Path(named)
    assert path.is_dir(), f"APRNB_FIXTURES={named} is no folder"
    return path


@pytest.fixture(scope="session")
def real_models() -> Path:
    """Folder of published models (Qwen2.5-Coder-0.5B-Instruct, Gemma 3 270M, as GGUF) and `tokenizers/` (four)."""
    named = os.environ.get("APRNB_REAL_MODELS")
    if not named:
        pytest.skip("the published models are not here: set APRNB_REAL_MODELS to their folder")
    path = Path(named)
    assert path.is_dir(), f"APRNB_REAL_MODELS={named} is no folder"
    return path


@pytest.fixture(scope="session")
def llama_cpp() -> type[LlamaCpp]:
    """`llama_cpp(path)` is llama.cpp with that model loaded, a context manager."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not here: pip install xllamacpp")
    return LlamaCpp


DATA = Path(__file__).parent / "data"
LARGER = Path(os.environ["APRNB_FIXTURES"]) if os.environ.get("APRNB_FIXTURES") else None
"""A folder that holds the real files which are too large to ship."""


def real_file(name: str) -> Path:
    """A `.apr` file written by the real tool: shipped with the tests, or from the folder of all of them."""
    places = [DATA / "real" / f"{name}.apr", ROOT / "notebooks" / f"{name}.apr"]
    places += [LARGER / f"{name}.apr"] if LARGER else []
    for place in places:
        if place.is_file():
            return place
    pytest.skip(f"{name}.apr is too large to ship: set APRNB_FIXTURES to a folder that holds it")


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """`real("llama-q4k")` is the path of that file."""
    return real_file


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """`golden("llama-q4k")` is what is true about that file."""
    return lambda name: json.loads((DATA / "real" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def sources() -> Path:
    """Configs, tokenizers, reference logits and answers of the models behind the real files."""
    return DATA / "sources"


@pytest.fixture(scope="session")
def foreign() -> Path:
    """Legacy and unsupported files."""
    return DATA / "foreign"


@pytest.fixture(scope="session")
def bare_shell():
    """The one IPython shell that a process can have."""
    pytest.importorskip("IPython")
    from IPython.testing.globalipapp import start_ipython

    return start_ipython()


@pytest.fixture
def shell(bare_shell) -> Iterator[object]:
    """A real IPython shell with the extension loaded."""
    bare_shell.run_line_magic("load_ext", "aprnb")
    yield bare_shell
    bare_shell.run_line_magic("unload_ext", "aprnb")
