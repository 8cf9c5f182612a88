"""`%apr_inspect`, `%apr_check`, `%apr_convert`, `%apr_finetune` and `%%apr_finetune`: parse, call, return.

Each returns its object, which shows itself; errors are `AprnbError`, one or two lines, and fail the cell. A broken
contract is shown, kept under `--as NAME`, and then fails the cell too; so is the header of a related container.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aprnb.errors import CheckpointError, UsageProblem
from aprnb.notebook.arguments import expand, join_continued, split

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from aprnb.notebook.screen import Screen

_CELL = "the cell's body"

_EXAMPLES: Mapping[str, str] = {
    "inspect": """
        %apr_inspect model.apr
        report = %apr_inspect "folder with blanks/model.apr"
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
        method = "qlora"            # a recipe in TOML; options on the line win
        data = "rows.jsonl"
        learning_rate = 1e-4

        %%apr_finetune model.apr --output tuned.apr
        {"instruction": "Say hello.", "response": "Hello!"}

        %%apr_finetune model.apr \\
            --method lora --rank 8 --data rows.jsonl""",
}


class Session:
    """One shell with aprnb loaded; its screen is made when something is first shown."""

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


@dataclass(eq=False)
class Magic:
    """A magic as IPython calls it (not frozen: IPython marks what it registers with attributes)."""

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
        result = self._result(given, body)
        if name:
            self.session.shell.push({name: result})
        if self.command == "check" and not result.ok:
            self.session.screen.show(result)
            result.raise_for_violations()
        if self.command == "inspect" and result.exit_code == CheckpointError.exit_code:
            self.session.screen.show(result)
            raise result.error
        return result

    def _result(self, given: dict[str, Any], body: str) -> Any:
        if self.command == "finetune":
            return _finetune(self.session, given, body)
        if self.command == "convert":
            return _convert(self.session, given)
        return _inspect(given) if self.command == "inspect" else _check(given)

    def getdoc(self) -> str:
        """What `%name?` shows: IPython asks for this before the docstring."""
        from inspect import cleandoc

        from aprnb.arguments import help_text

        examples = cleandoc(_EXAMPLES[self.command]).replace("\n", "\n    ")
        text = help_text(self.command, prog=f"%{self.name}", surface="notebook")
        return f"{text}\nexamples:\n    {examples}\n\n$name and {{expression}} stand for Python values.\n"


def magics_of(session: Session) -> tuple[Magic, ...]:
    """The magics of one shell; IPython leaves expansion of variables to them."""
    from IPython.core.magic import no_var_expand

    magics = (
        Magic("inspect", ("line",), session),
        Magic("check", ("line",), session),
        Magic("convert", ("line",), session),
        Magic("finetune", ("line", "cell"), session),
    )
    for magic in magics:
        no_var_expand(magic)
    return magics


def _inspect(given: dict[str, Any]) -> Any:
    from aprnb.inspection import inspect

    return inspect(given.pop("checkpoint"), **given)


def _check(given: dict[str, Any]) -> Any:
    from aprnb.architecture import check

    return check(given.pop("checkpoint"), **given)


def _convert(session: Session, given: dict[str, Any]) -> Any:
    from aprnb.conversion import convert
    from aprnb.notebook.bar import Bar

    with Bar(session.screen) as bar:
        return convert(given.pop("checkpoint"), given.pop("target"), progress=bar, **given)


def _finetune(session: Session, given: dict[str, Any], body: str) -> Any:
    options = _with_body(given, body)
    checkpoint = options.pop("checkpoint", None)
    from aprnb.tuning.finetune import finetune, plan

    if options.pop("plan", False):
        return plan(checkpoint, **options)
    from aprnb.notebook.panel import Panel

    with Panel(session.screen) as panel:
        run = finetune(checkpoint, listener=panel, **options)
        panel.finish(run)
    return run


def _with_body(given: dict[str, Any], body: str) -> dict[str, Any]:
    """The options of the line over those of the body, over those of `--recipe`.

    A body that begins with `{` is training rows as JSON Lines, else it is a recipe in TOML.
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
    raise UsageProblem(f"--as {name!r}", expected="a name that Python takes for a variable")
