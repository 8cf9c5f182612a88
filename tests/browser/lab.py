"""One JupyterLab page: open a notebook, run its cells, wait, save, look."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

OUTPUT = ".jp-OutputArea-output"
_READY_MS = 60_000


class LabPage:
    """User actions in JupyterLab, through a Playwright page (`.page`)."""

    def __init__(self, page: Any, url: str, token: str, folder: Path) -> None:
        self.page, self.url, self.token, self.folder = page, url, token, folder
        self.dialogs: list[str] = []
        page.on("dialog", self._on_dialog)

    def open(self, name: str, cells: list[str]) -> None:
        """Writes a notebook with these cells and opens it; its kernel is ready when this returns."""
        self.write(name, cells)
        self.page.goto(f"{self.url}/lab/tree/{name}?token={self.token}&reset")
        self.wait_until_ready()

    def write(self, name: str, cells: list[str]) -> None:
        content = {
            "cells": [
                {"cell_type": "code", "id": f"cell-{number}", "execution_count": None,
                 "metadata": {}, "outputs": [], "source": source}
                for number, source in enumerate(cells)
            ],
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "nbformat": 4, "nbformat_minor": 5,
        }  # fmt: skip
        (self.folder / name).write_text(json.dumps(content), encoding="utf-8")

    def wait_until_ready(self) -> None:
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=_READY_MS)
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=_READY_MS)

    def reload(self) -> None:
        self.page.reload()
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=_READY_MS)

    def start(self, number: int) -> None:
        """Runs a cell and does not wait for its end."""
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def run(self, number: int, timeout_s: float = 60) -> str:
        """Runs a cell to its end; returns the text of its outputs."""
        self.start(number)
        self.wait_for_end(number, timeout_s)
        return self.output_text(number)

    def wait_for_end(self, number: int, timeout_s: float = 60) -> None:
        prompt = self.cell(number).locator(".jp-InputPrompt").first
        self.page.wait_for_timeout(150)
        self.page.wait_for_function(
            "prompt => /\\[\\d+\\]/.test(prompt.textContent)", arg=prompt.element_handle(), timeout=timeout_s * 1000
        )

    def cell(self, number: int) -> Any:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def outputs(self, number: int) -> Any:
        return self.cell(number).locator(OUTPUT)

    def output_text(self, number: int) -> str:
        return str(self.cell(number).locator(".jp-Cell-outputArea").inner_text())

    def save(self, name: str) -> dict[str, Any]:
        """Saves the notebook and returns the file's content."""
        before = (self.folder / name).stat().st_mtime_ns
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("Control+s")
        for _ in range(100):
            self.page.wait_for_timeout(100)
            if (self.folder / name).stat().st_mtime_ns != before:
                break
        self.page.wait_for_timeout(300)  # the server writes and then renames or truncates: let it end
        return self.saved(name)

    def saved(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return content

    def choose_theme(self, name: str) -> None:
        """What Settings > Theme does."""
        self.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', { theme })", name)
        self.page.wait_for_timeout(1500)

    def interrupt_kernels(self) -> None:
        for kernel in self._kernels():
            self._request("POST", f"api/kernels/{kernel}/interrupt")

    def restart_kernels(self) -> None:
        for kernel in self._kernels():
            self._request("POST", f"api/kernels/{kernel}/restart")

    def shut_down_kernels(self) -> None:
        for kernel in self._kernels():
            self._request("DELETE", f"api/kernels/{kernel}")

    def _kernels(self) -> list[str]:
        return [kernel["id"] for kernel in json.loads(self._request("GET", "api/kernels"))]

    def _request(self, method: str, path: str) -> bytes:
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}/{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return bytes(response.read())

    def _on_dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.accept()


def output_kinds(notebook: dict[str, Any]) -> list[str]:
    """Every mime type in the outputs of a saved notebook."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return [kind for output in outputs for kind in output.get("data", {})]


def plain(text: str) -> str:
    """Text with runs of white space folded."""
    return re.sub(r"\s+", " ", text)
