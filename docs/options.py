"""Sphinx directives that read the package, so that pages and code cannot disagree."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import aprnb
from aprnb.arguments import help_text


class Options(SphinxDirective):
    """`{options} finetune` shows what `aprnb finetune --help` says."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        command = self.arguments[0]
        text = help_text(command, prog=f"aprnb {command}", surface="shell")
        return [nodes.literal_block(text, text, language="text")]


class Public(SphinxDirective):
    """`{public} finetune Run` documents `aprnb.finetune` under that path, and `Run` under its own, wherever it is."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        lines = []
        for name in self.arguments[0].split():
            path, found = self.locate(name)
            # A class lists its fields under "Attributes:"; where it does not, they are shown without a text.
            listed = "Attributes:" in (found.__doc__ or "")
            options = ["   :members:", *([] if listed else ["   :undoc-members:"])] if inspect.isclass(found) else []
            lines += [f".. auto{'class' if inspect.isclass(found) else 'function'}:: {path}", *options, ""]
        return self.parse_text_to_nodes("```{eval-rst}\n" + "\n".join(lines) + "\n```")

    def locate(self, name: str) -> tuple[str, Any]:
        """Path and object of a name on `aprnb`, or of the one module that defines it."""
        if hasattr(aprnb, name):
            return f"aprnb.{name}", getattr(aprnb, name)
        for module in pkgutil.walk_packages(aprnb.__path__, "aprnb."):
            if not module.name.endswith("__main__"):
                found = getattr(import_module(module.name), name, None)
                if getattr(found, "__module__", None) == module.name:
                    return f"{module.name}.{name}", found
        raise self.error(f"aprnb defines no {name}")


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("options", Options)
    app.add_directive("public", Public)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
