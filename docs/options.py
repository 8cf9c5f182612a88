"""A Sphinx directive that lists a command's options from the parsers' own table, so that the page cannot disagree."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from aprnb.arguments import help_text


class Options(SphinxDirective):
    """`{options} finetune` shows what `aprnb finetune --help` says."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        command = self.arguments[0]
        text = help_text(command, prog=f"aprnb {command}", surface="shell")
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("options", Options)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
