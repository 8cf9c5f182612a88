"""Which room may import what: read from the source, and measured in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

PACKAGE = Path(__file__).parent.parent / "aprnb"

FOUNDATION = {"errors", "printable", "units"}
CORE = FOUNDATION | {"formats", "architecture", "tokenizer"}
OPTIONS = {"options", "commands", "arguments"}
TRAINING = CORE | {"options", "model", "conversion", "tuning"}
# Rooms of the package that a room may import; itself is always allowed, and `display` is a leaf open to every room.
MAY_IMPORT = {
    "printable": set(),
    "errors": {"printable"},
    "units": set(),
    "display": FOUNDATION,
    "formats": FOUNDATION,
    "architecture": FOUNDATION | {"formats"},
    "tokenizer": FOUNDATION | {"formats", "architecture"},
    "inspection": CORE,
    "model": CORE,
    "conversion": CORE | {"model"},
    "options": FOUNDATION,
    "tuning": TRAINING,
    "commands": FOUNDATION | {"options", "tuning"},
    "arguments": FOUNDATION | {"options", "tuning", "commands"},
    "terminal": TRAINING,
    "cli": TRAINING | OPTIONS | {"inspection", "terminal", "__init__"},
    "notebook": TRAINING | OPTIONS | {"inspection", "__init__"},
    "__main__": {"cli"},
    "__init__": TRAINING | {"inspection", "notebook"},
}
# Doors that people use and that lead upwards, opened only when someone goes through: `Checkpoint.architecture`.
UPWARD_INSIDE_FUNCTIONS = {("formats/checkpoint.py", "architecture")}

HEAVY = {"torch", "transformers", "bitsandbytes", "peft", "accelerate", "tokenizers", "safetensors", "jinja2"}
JUPYTER = {
    "IPython",
    "ipywidgets",
    "ipykernel",
    "itables",
    "traitlets",
    "comm",
    "nbformat",
    "nbclient",
    "jupyter_client",
}
DRAWING = {"matplotlib", "pandas"}
# Third-party packages by room: at module level, and inside functions.
AT_MODULE_LEVEL = {
    "formats": {"numpy"},
    "architecture": {"numpy"},
    "tokenizer": {"numpy", "tokenizers", "transformers", "jinja2"},
    "inspection": {"numpy"},
    "model": {"numpy"} | HEAVY,
    "conversion": {"numpy"},
    "tuning": {"numpy"} | HEAVY,
    "notebook": {"numpy", "IPython", "ipywidgets", "traitlets"},
}
INSIDE_FUNCTIONS = {
    "formats": {"gguf", "lz4", "zstandard"},
    "tokenizer": {"gguf"},
    "inspection": {"pandas"},
    "display": {"matplotlib"},
    "conversion": HEAVY | {"gguf"},
    "notebook": JUPYTER | DRAWING | HEAVY,
    "tuning": {"pandas", "psutil"},
}
# Parts of tuning/ that plan without torch.
WITHOUT_TORCH = (
    "planning.recipe", "planning.recipe_file", "planning.plan", "planning.memory", "data.rows",
    "data.labels", "data.examples", "data.packing", "training.events",
)  # fmt: skip


When = Literal["at import", "when called", "never"]


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    module: str
    when: When

    @property
    def importer(self) -> str:
        return self.file.split("/")[0].removesuffix(".py")

    @property
    def room(self) -> str | None:
        """The room of the package that is imported, or None for another package."""
        parts = self.module.split(".")
        if parts[0] != "aprnb":
            return None
        return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "__init__"

    def __str__(self) -> str:
        return f"aprnb/{self.file}:{self.line} imports {self.module}"


def read_imports(path: Path, name: str) -> Iterator[Import]:
    def visit(node: ast.AST, when: When) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(name, child.lineno, alias.name, when)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}:{child.lineno}: imports are absolute"
                for alias in child.names if child.module == "aprnb" else [None]:
                    module = f"aprnb.{alias.name}" if alias else str(child.module)
                    yield Import(name, child.lineno, module, when)
            else:
                yield from visit(child, _runs(child, when))

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), "at import")


def _runs(node: ast.AST, outside: When) -> When:
    """When the statements inside `node` run: functions when called, a TYPE_CHECKING block never."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return "never"
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    return "when called" if is_function and outside == "at import" else outside


def all_imports() -> list[Import]:
    return [
        found
        for path in sorted(PACKAGE.rglob("*.py"))
        for found in read_imports(path, path.relative_to(PACKAGE).as_posix())
    ]


def room_is_allowed(found: Import) -> bool:
    if found.room in (None, found.importer, "display"):
        return True
    if found.importer not in MAY_IMPORT:
        return False
    if (found.file, found.room) in UPWARD_INSIDE_FUNCTIONS:
        return found.when != "at import"
    return found.room in MAY_IMPORT[found.importer]


def third_party_is_allowed(found: Import) -> bool:
    top = found.module.split(".")[0]
    if top == "aprnb" or top in sys.stdlib_module_names or found.when == "never":
        return True
    allowed = set(AT_MODULE_LEVEL.get(found.importer, ()))
    if found.when == "when called":
        allowed |= INSIDE_FUNCTIONS.get(found.importer, set())
    return top in allowed


def test_rooms_import_only_the_rooms_below_them() -> None:
    broken = [str(found) for found in all_imports() if not room_is_allowed(found)]
    assert not broken, "\n".join(broken)


def test_rooms_import_only_the_packages_named_for_them() -> None:
    broken = [str(found) for found in all_imports() if not third_party_is_allowed(found)]
    assert not broken, "\n".join(broken)


def test_nothing_but_the_package_itself_imports_the_notebook_room() -> None:
    importers = {found.file for found in all_imports() if found.room == "notebook" and found.importer != "notebook"}
    assert importers <= {"__init__.py"}


def test_every_file_of_the_package_belongs_to_a_room_of_the_table() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert rooms <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("file", "line", "verdict"),
    [
        ("formats/x.py", "import torch", False),
        ("formats/x.py", "def f():\n    import torch", False),
        ("formats/x.py", "from aprnb.tuning import run", False),
        ("formats/x.py", "from aprnb import notebook", False),
        ("cli.py", "def f():\n    from aprnb.notebook import magics", False),
        ("inspection/x.py", "import pandas", False),
        ("inspection/x.py", "def f():\n    import pandas", True),
        ("display/x.py", "from aprnb.formats import open", False),
        ("model/x.py", "import torch", True),
        ("unknown_room.py", "from aprnb.formats import open", False),
    ],
)
def test_the_reader_of_these_rules_sees_what_breaks_them(tmp_path: Path, file: str, line: str, verdict: bool) -> None:
    path = tmp_path / "x.py"
    path.write_text(line, encoding="utf-8")
    [found] = read_imports(path, file)
    assert (room_is_allowed(found) and third_party_is_allowed(found)) is verdict


def modules_after(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after `code`."""
    script = f"{code}\nimport sys\nprint('MODULES', *sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.rsplit("MODULES", 1)[1].split())


def test_importing_aprnb_imports_nothing_heavy_and_not_even_numpy() -> None:
    loaded = modules_after("import aprnb")
    assert not loaded & (HEAVY | JUPYTER | DRAWING | {"numpy"})


@pytest.mark.parametrize(
    "code",
    [
        "aprnb.open(path).architecture",
        "aprnb.check(path).raise_for_violations()",
        "str(aprnb.inspect(path)); aprnb.inspect(path).to_html()",
        "import aprnb.arguments; aprnb.arguments.help_text('finetune', prog='x', surface='shell')",
    ],
)
def test_looking_at_a_file_imports_no_torch_and_no_jupyter(pocket_qwen3: Path, code: str) -> None:
    loaded = modules_after(f"import aprnb; path = {str(pocket_qwen3)!r}; {code}")
    assert not loaded & (HEAVY | JUPYTER | DRAWING)


@pytest.mark.parametrize("module", [f"aprnb.tuning.{name}" for name in WITHOUT_TORCH])
def test_the_planning_half_of_tuning_imports_no_torch(module: str) -> None:
    assert not modules_after(f"import {module}") & (HEAVY | JUPYTER | DRAWING)


def test_loading_the_extension_imports_no_torch() -> None:
    pytest.importorskip("IPython")
    code = "from IPython.core.interactiveshell import InteractiveShell\nimport aprnb\n"
    loaded = modules_after(code + "aprnb.load_ipython_extension(InteractiveShell.instance())")
    assert not loaded & (HEAVY | {"pandas", "itables"})
