"""`%apr_inspect`, `%apr_check`, `%apr_convert`, `%apr_finetune` and `%%apr_finetune`: parse, call, return.

Each returns its object, which IPython displays. Errors are `AprnbError`, one or two lines, and fail the cell. A
contract with violations, and a legacy container of which only the header can be read, are displayed, stored under
`--as NAME`, and fail the cell too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aprnb.commands import COMMANDS, RunT, T
from aprnb.errors import CheckpointError, UsageProblem
from aprnb.notebook.arguments import expand, join_continued, split

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from aprnb.notebook.screen import Screen
    from aprnb.tuning.training.events import Listener

_CELL = "the cell's body"

_EXAMPLES: Mapping[str, str] = {
    "inspect": """
        %apr_inspect model.apr
        report = %apr_inspect "folder with spaces/model.apr"
        %apr_inspect model.apr --set rope_theta=1000000 --as report""",
    "check": """
        %apr_check model.apr
        %apr_check {folder}/model.apr --config config.json""",
    "convert": """
        %apr_convert model-folder model.apr
        %apr_convert model.apr model-q4.apr --dtype q4_k
        %apr_convert model.gguf "a folder for transformers" """,
    "finetune": """
        run = %apr_finetune model.apr --data rows.jsonl --output tuned.apr
        %apr_finetune model.apr --data $df --plan

        %%apr_finetune model.apr --output tuned.apr
        method = "qlora"            # a recipe in TOML; options on the line override it
        data = "rows.jsonl"
        learning_rate = 1e-4

        %%apr_finetune model.apr --output tuned.apr
        {"instruction": "Say hello.", "response": "Hello!"}

        %%apr_finetune model.apr \\
            --method lora --rank 8 --data rows.jsonl""",
}


class Session:
    """One shell with aprnb loaded: the view of its commands. The screen is created when something is first shown."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self._screen: Screen | None = None

    @property
    def screen(self) -> Screen:
        if self._screen is None:
            from aprnb.notebook.screen import Screen

            self._screen = Screen(self.shell)
        return self._screen

    def bundle(self, shown: Any) -> dict[str, str]:
        return self.screen.bundle(shown)

    def conversion(self, work: Callable[[Callable[[int, int], None]], T]) -> T:
        from aprnb.notebook.bar import Bar

        with Bar(self.screen) as bar:
            return work(bar)

    def training(self, work: Callable[[Listener], RunT]) -> RunT:
        from aprnb.notebook.panel import Panel

        with Panel(self.screen) as panel:
            run = work(panel)
            panel.finish(run)
        return run


@dataclass(eq=False)
class Magic:
    """A magic as IPython calls it (not frozen: IPython sets attributes on what it registers)."""

    command: str
    kinds: tuple[str, ...]
    session: Session

    @property
    def name(self) -> str:
        return f"apr_{self.command}"

    def __call__(self, line: str, cell: str | None = None) -> Any:
        from aprnb.arguments import help_text, parse

        prog = f"%{self.name}" if cell is None else f"%%{self.name}"
        line, body = join_continued(line, cell or "")
        tokens = expand(split(line), self.session.shell.user_ns)
        given = parse(self.command, tokens, prog=prog, surface="notebook")
        if given.pop("help", False):
            return _show_text(help_text(self.command, prog=prog, surface="notebook"))
        name = _variable_name(given.pop("as", None))
        result: Any = COMMANDS[self.command].run(_with_body(given, body), self.session)
        if name:
            self.session.shell.push({name: result})
        if self.command == "check" and not result.ok:
            self.session.screen.show(result)
            result.raise_for_violations()
        if self.command == "inspect" and result.exit_code == CheckpointError.exit_code:
            self.session.screen.show(result)
            raise result.error
        return result

    def getdoc(self) -> str:
        """The text of `%name?`: IPython prefers it to the docstring."""
        from inspect import cleandoc

        from aprnb.arguments import help_text

        examples = cleandoc(_EXAMPLES[self.command]).replace("\n", "\n    ")
        text = help_text(self.command, prog=f"%{self.name}", surface="notebook")
        return f"{text}\nexamples:\n    {examples}\n\n$name and {{expression}} are replaced by Python values.\n"


def magics_of(session: Session) -> tuple[Magic, ...]:
    """The magics of one shell; they expand variables themselves."""
    from IPython.core.magic import no_var_expand

    magics = tuple(Magic(name, command.magics, session) for name, command in COMMANDS.items() if command.magics)
    for magic in magics:
        no_var_expand(magic)
    return magics


def _with_body(given: dict[str, Any], body: str) -> dict[str, Any]:
    """The options of `--recipe`, overridden by those of the body, then by those of the line.

    A body that begins with `{` contains training rows as JSON Lines, any other is a recipe in TOML.
    """
    from aprnb.arguments import with_recipe
    from aprnb.tuning.planning.recipe_reader import read_toml

    text = body.strip()
    if not text.startswith("{"):
        return with_recipe(given, read_toml(body, _CELL) if text else {})
    if "data" in given:
        raise UsageProblem("--data and training rows in the cell's body", expected="one of them")
    return with_recipe({**given, "data": body})


def _show_text(text: str) -> None:
    from IPython.display import display

    display({"text/plain": text}, raw=True)


def _variable_name(name: Any) -> str | None:
    if name is None or (isinstance(name, str) and name.isidentifier()):
        return name
    raise UsageProblem(f"--as {name!r}", expected="the name of a Python variable")
