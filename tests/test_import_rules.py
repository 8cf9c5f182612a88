"""Which room may import what, and how large files and folders may grow: read from the source; import costs measured."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import aprnb

PACKAGE = Path(__file__).parent.parent / "aprnb"
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_LOOSE_MODULES = 250, 40, 15

FOUNDATION = {"dtype_names", "errors", "phases", "printable", "units"}
CORE = FOUNDATION | {"formats", "architecture", "tokenizer"}
OPTIONS = {"options", "option_values"}
TRAINING = CORE | OPTIONS | {"adapters", "model", "conversion", "tuning"}
# Rooms of the package that a room may import; itself is always allowed, and `display` is a leaf open to every room.
MAY_IMPORT = {
    "dtype_names": set(),
    "printable": set(),
    "errors": {"printable"},
    "units": set(),
    "phases": set(),
    "display": FOUNDATION - {"dtype_names"},
    "formats": FOUNDATION,
    "architecture": FOUNDATION | {"formats"},
    "tokenizer": FOUNDATION | {"formats", "architecture"},
    "adapters": FOUNDATION | {"formats", "architecture"},
    "inspection": CORE | {"adapters"},
    "model": CORE | OPTIONS,
    "conversion": CORE | OPTIONS | {"adapters", "model"},
    "options": {"dtype_names"},
    "option_values": {"dtype_names", "errors", "options"},
    "tuning": TRAINING,
    "views": {"phases", "model", "conversion", "tuning"},
    "commands": {"errors", "options", "phases", "views", "architecture", "inspection", "model", "conversion", "tuning"},
    "arguments": OPTIONS | {"errors", "tuning", "commands"},
    "terminal": {"printable"},
    "terminal_views": {"terminal", "phases", "units", "views", "model", "conversion", "tuning"},
    "cli": {"errors", "printable", "arguments", "commands", "terminal", "terminal_views", "__init__"},
    "notebook": TRAINING | {"arguments", "commands", "views"},
    "__main__": {"cli"},
    "__init__": TRAINING | {"inspection", "notebook"},
}
# The one file that imports a room above, inside functions: the properties of `Checkpoint` (architecture, metadata).
UPWARD = {("formats/checkpoint.py", "architecture")}
# The parts of tuning/ from the lowest to the highest: each imports only itself and those before it.
TUNING_ORDER = (
    "tensor_files",
    "data",
    "planning",
    "written_files",
    "start_adapter",
    "preparation",
    "training",
    "results",
    "timing",
    "runs",
    "sweep",
    "tracking",
    "starting",
    "write_results",
    "execution",
    "finetune",
    "child",
)

HEAVY = {"torch", "transformers", "bitsandbytes", "peft", "accelerate", "tokenizers", "safetensors", "jinja2"}
JUPYTER = {
    "IPython",
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
    "adapters": {"numpy"},
    "tokenizer": {"numpy"},
    "inspection": {"numpy"},
    "model": {"numpy"} | HEAVY,
    "conversion": {"numpy"},
    "tuning": {"numpy"} | HEAVY,
    "notebook": {"numpy", "IPython", "traitlets"},
}
INSIDE_FUNCTIONS = {
    "formats": {"gguf", "lz4", "zstandard"},
    "tokenizer": {"tokenizers", "transformers"},
    "inspection": {"pandas"},
    "display": {"matplotlib"},
    "conversion": HEAVY | {"gguf"},
    "notebook": JUPYTER | DRAWING | HEAVY,
    "model": {"psutil"},
    "tuning": {"pandas", "pyarrow", "zstandard", "psutil", "tomli_w", "mlflow", "trackio", "wandb"},
}
# Files that exist for one library; the rest of their room imports them inside functions.
AT_MODULE_LEVEL_OF_FILE = {
    "tokenizer/fast_tokenizer.py": {"tokenizers"},
    "tokenizer/sandbox/template_child.py": {"jinja2"},
}
# Parts of tuning/ that plan without torch.
WITHOUT_TORCH = (
    "planning.device", "planning.identity", "planning.make_plan", "planning.memory", "planning.model_size",
    "planning.plan", "planning.plan_document", "planning.recipe", "planning.recipe_file", "planning.recipe_reader",
    "planning.settle",
    "data.examples", "data.forms", "data.labels", "data.messages", "data.packing", "data.rows",
    "data.sources.row_sources", "training.events",
)  # fmt: skip

PUBLIC_FUNCTIONS = {
    (Path(public.__code__.co_filename), public.__code__.co_firstlineno)
    for public in (getattr(aprnb, name) for name in aprnb._HOMES)
    if inspect.isfunction(public)
}

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


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def read_imports(path: Path, name: str) -> Iterator[Import]:
    def visit(node: ast.AST, when: When) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(name, child.lineno, alias.name, when)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}:{child.lineno}: imports are absolute"
                inner = [f"{child.module}.{alias.name}" for alias in child.names]
                for module in dict.fromkeys(each if each in MODULES else str(child.module) for each in inner):
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
    return [found for path in MODULES.values() for found in read_imports(path, path.relative_to(PACKAGE).as_posix())]


def room_is_allowed(found: Import) -> bool:
    if found.room in (None, found.importer, "display"):
        return True
    if found.importer not in MAY_IMPORT:
        return False
    if (found.file, found.room) in UPWARD:
        return found.when != "at import"
    return found.room in MAY_IMPORT[found.importer]


def third_party_is_allowed(found: Import) -> bool:
    top = found.module.split(".")[0]
    if top == "aprnb" or top in sys.stdlib_module_names or found.when == "never":
        return True
    allowed = AT_MODULE_LEVEL.get(found.importer, set()) | AT_MODULE_LEVEL_OF_FILE.get(found.file, set())
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


def modules_in_circles(imports: dict[str, set[str]]) -> set[str]:
    """Modules from which imports lead back to themselves."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = list(imports[start])
        while waiting:
            if (module := waiting.pop()) not in found:
                found.add(module)
                waiting += imports[module]
        return found

    return {module for module in imports if module in reached(module)}


def test_no_imports_form_a_circle_not_even_lazy_or_type_only_ones() -> None:
    imports: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in all_imports():
        if found.module in MODULES and (found.file, found.room) not in UPWARD:
            imports[module_name(PACKAGE / found.file)].add(found.module)
    circles = {module.removeprefix("aprnb.") for module in modules_in_circles(imports)}
    assert not circles


def test_circles_are_found_through_any_number_of_modules() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"f"}}
    assert modules_in_circles(imports) == {"a", "b", "c", "f"}


def breaks_the_order_of_tuning(found: Import) -> bool:
    importer, imported = found.file.removesuffix(".py").split("/"), found.module.split(".")[1:]
    if importer[0] != "tuning" or imported[:1] != ["tuning"]:
        return False
    ranks = [TUNING_ORDER.index(part) for part in (importer[1], *imported[1:2]) if part in TUNING_ORDER]
    return len(ranks) == 2 and ranks[0] < ranks[1]


def test_each_part_of_tuning_imports_only_those_before_it() -> None:
    broken = {found.file for found in all_imports() if breaks_the_order_of_tuning(found)}
    assert not broken


def test_folders_files_and_functions_stay_small() -> None:
    loose = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    large = [str(folder) for folder, n in loose.items() if n > MAX_LOOSE_MODULES and folder.name != "families"]
    long = {name for path in MODULES.values() for name in too_long(path)}
    assert not large
    assert not long


def too_long(path: Path) -> Iterator[str]:
    """The file where it is too long, and its functions that are."""
    name, text = path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")
    if text.count("\n") > MAX_FILE_LINES:
        yield name
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # The signature and docstring of a public function name every option and are not counted.
            first = node.body[1] if (path, node.lineno) in PUBLIC_FUNCTIONS else node
            if (node.end_lineno or 0) - first.lineno + 1 > MAX_FUNCTION_LINES:
                yield f"{name} {node.name}"


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
        ("model/x.py", "def f():\n    from aprnb.inspection import inspect", False),
        ("tuning/x.py", "from aprnb.inspection.report import Report", False),
        ("tokenizer/x.py", "import tokenizers", False),
        ("tokenizer/x.py", "def f():\n    import tokenizers", True),
        ("tokenizer/fast_tokenizer.py", "import tokenizers", True),
        ("unknown_room.py", "from aprnb.formats import open", False),
    ],
)
def test_the_reader_of_these_rules_sees_what_breaks_them(tmp_path: Path, file: str, line: str, verdict: bool) -> None:
    path = tmp_path / "x.py"
    path.write_text(line, encoding="utf-8")
    [found] = read_imports(path, file)
    assert (room_is_allowed(found) and third_party_is_allowed(found)) is verdict


def modules_after(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has loaded after `code`."""
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
