"""Sphinx: MyST pages, the tutorials with their stored outputs, the Python API from docstrings."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import aprnb

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "aprnb"
author = "The aprnb authors"
copyright = "2026, The aprnb authors"
release = aprnb.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "options"]
html_theme = "furo"
html_title = f"aprnb {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

# The pages show the stored outputs: the notebook tests have run them.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Docstrings mark code with single backticks.
default_role = "code"

# Fields are listed in the class's own text; as entries of their own they would appear twice.
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}


def copy_tutorials() -> None:
    """Sphinx reads only below its own folder; the notebooks are one level up."""
    target = HERE / "_build" / "tutorials"
    target.mkdir(parents=True, exist_ok=True)
    for notebook in (HERE.parent / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, target / notebook.name)


exclude_patterns = ["_build/html", "_build/doctrees", "_build/jupyter_execute"]
copy_tutorials()
