"""The magics `%apr_COMMAND` and `%%apr_COMMAND`: parse, call, return.

Each returns its object, which IPython displays. Errors are `AprnbError`, one or two lines, and fail the cell. A
contract with violations, and a legacy container of which only the header can be read, are displayed, stored under
`--as NAME`, and fail the cell too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aprnb.commands import COMMANDS
from aprnb.errors import CheckpointError, Interrupted, UsageProblem, out_of_memory_in
from aprnb.notebook.arguments import expand, join_continued, split
from aprnb.views import ConversionView, ConvertedT, GenerationT, PhaseView, ResultT, RunT, TrainingKind

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from aprnb.notebook.screen import Screen
    from aprnb.phases import OnPhase
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
        %apr_convert model-folder model.gguf --dtype q4_k_m --plan
        %apr_convert model.gguf "a folder for transformers" """,
    "merge": """
        %apr_merge base.apr adapter-folder --output merged.apr""",
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
    "watch": """
        %apr_watch tuned.run
        run = %apr_watch /shared/disk/tuned.run""",
    "runs": """
        %apr_runs
        %apr_runs experiments
        runs = %apr_runs first.run second.run""",
    "generate": """
        %apr_generate model.apr "What does the cow say?"
        answer = %apr_generate model.gguf $question --max-new-tokens 512 --stop "END"
        %apr_generate model.apr "A story, please." --temperature 0.7 --top-p 0.9 --seed 1

        %%apr_generate model.apr --system "Answer in one sentence."
        The whole body is the prompt,
        as it is typed: $names and {braces} are not replaced.""",
}


class Session:
    """One shell with aprnb loaded: the view of its commands. The screen is created when something is first shown."""

    starts_processes = True

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

    def conversion(self, work: Callable[[ConversionView], ConvertedT]) -> ConvertedT:
        from aprnb.notebook.bar import Bar

        with Bar(self.screen) as bar:
            return work(bar)

    def training(self, work: Callable[[Listener], RunT], kind: TrainingKind = "here", /) -> RunT:
        from aprnb.notebook.panel import Panel

        with Panel(self.screen, is_asked=kind != "here") as panel:
            run = work(panel)
            if kind != "background" or not panel.follow(run):
                panel.finish(run)
        return run

    def phases(self, work: Callable[[PhaseView], ResultT]) -> ResultT:
        from aprnb.notebook.bar import PhaseLine

        with PhaseLine(self.screen) as line:
            return work(line)

    def generation(self, work: Callable[[Callable[[str], object], OnPhase], GenerationT]) -> GenerationT:
        from aprnb.notebook.answer import LiveAnswer

        with LiveAnswer(self.screen) as live:
            answer = work(live.text, live.phase)
            live.finish(answer)
        return answer


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
        name, keeps_going = _variable_name(given.pop("as", None)), given.pop("keep_going", False)
        read_body = _with_prompt if self.command == "generate" else _with_body
        enough = out_of_memory_in("in this cell", "end other programs, or use a machine with more memory")
        try:
            with enough:
                options = read_body(given, body)
                goes_on = options.get("resume") == "auto"
                result: Any = COMMANDS[self.command].run(options, self.session)
        except KeyboardInterrupt:
            raise Interrupted("stopped", action="no incomplete file is left: run the cell again") from None
        if name:
            self.session.shell.push({name: result})
        if self.command == "finetune" and result.exit_code == Interrupted.exit_code and not keeps_going:
            stopped = getattr(result, "runs", (result,))[-1]
            self.session.shell.push({"run": stopped})
            raise _interrupted(stopped, goes_on=goes_on)
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
    from aprnb.tuning.data.sources.several import is_rows
    from aprnb.tuning.planning.recipe_reader import read_toml

    if not is_rows(body):
        return with_recipe(given, read_toml(body, _CELL, texts=("model",)) if body.strip() else {})
    if "data" in given:
        raise UsageProblem("--data and training rows in the cell's body", expected="one of them")
    return with_recipe({**given, "data": body})


def _interrupted(run: Any, *, goes_on: bool) -> Interrupted:
    """Raised after the state was saved, so that the cells behind an interrupted run do not run on.

    A cell that `goes_on` has --resume auto.
    """
    how = "run the cell again: it continues" if goes_on else "continue it with --resume"
    return Interrupted(
        f"the run stopped after step {len(run.history.steps)}; its state is saved in {run.where.run}",
        action=f"{how}; `run` is the run so far, and --keep-going lets the next cells run",
    )


def _with_prompt(given: dict[str, Any], body: str) -> dict[str, Any]:
    """The options of the line; the body, as it is, is the prompt."""
    text = body.strip("\n")
    if not text.strip():
        return given
    if "prompt" in given or "prompt_text" in given:
        raise UsageProblem("a prompt on the line and one in the cell's body", expected="one of them")
    return {**given, "prompt": text}


def _show_text(text: str) -> None:
    from IPython.display import display

    display({"text/plain": text}, raw=True)


def _variable_name(name: Any) -> str | None:
    if name is None or (isinstance(name, str) and name.isidentifier()):
        return name
    raise UsageProblem(f"--as {name!r}", expected="the name of a Python variable")
