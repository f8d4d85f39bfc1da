"""How Sphinx builds the site: pages in MyST Markdown, the reference from docstrings. `make docs` builds it."""

from __future__ import annotations

import nuggets_trainer

project = "nuggets_trainer"
author = "The nuggets_trainer authors"
copyright = author
version = release = nuggets_trainer.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nb_execution_mode = "off"
myst_heading_anchors = 4

html_theme = "furo"
html_title = "nuggets_trainer"
