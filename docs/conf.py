"""The Sphinx configuration of the site: pages in MyST Markdown, the reference from docstrings. `make docs` builds it.

Nothing is fetched or executed: the notebook is shown with its stored outputs.
"""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util.docutils import SphinxDirective

import nuggets_trainer
from nuggets_trainer import NuggetsConfig
from nuggets_trainer.config.option_group import option_groups

DOCS = Path(__file__).parent.resolve()
# Links to files outside docs/ lead to this address: the repository of a published site, or the clone on this disk.
address_of_files = runpy.run_path(str(DOCS.parent / "setup.py"), run_name="setup")["address_of_files"]
REPOSITORY = address_of_files(DOCS.parent) or DOCS.parent.as_uri()

project = html_title = "nuggets_trainer"
author = copyright = "The nuggets_trainer authors"
version = release = nuggets_trainer.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "trl_proposal"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # links to headings as GitHub makes them
myst_url_schemes = {"https": None, "repository": REPOSITORY + "/{{path}}#{{fragment}}"}
nb_execution_mode = "off"
smartquotes_action = "D"  # dashes alone: quotes are often code

default_role = "py:obj"  # `name` in a docstring: code, and a link where the site documents it
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


# Sphinx takes defaults from the source of a function, and fails where its signature has others. So the site shows the
# two arguments of selection, and those of TRL as `**kwargs`.
del nuggets_trainer.SelectedSFTTrainer.__init__.__signature__


class Array:
    """A replacement for `numpy.typing.NDArray`, which autodoc prints as `ndarray[tuple[Any, ...], dtype[float64]]`."""

    def __class_getitem__(cls, dtype: Any) -> Any:
        return np.ndarray


class ConfigGroup(SphinxDirective):
    """A directive that describes one group of options: type, default and help text of the dataclass."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the parsed descriptions."""
        known = {field.name for field in dataclasses.fields(NuggetsConfig)}
        groups = {group.__name__: group for group in option_groups(NuggetsConfig)}
        described: list[nodes.Node] = []
        for field in dataclasses.fields(groups[self.arguments[0]]):
            self.env.ref_context.update({"py:module": "nuggets_trainer", "py:class": "NuggetsConfig"})
            described += self.parse_text_to_nodes(as_markdown(field, known))
        return described


def as_markdown(field: dataclasses.Field[Any], known: set[str]) -> str:
    """Write a field as MyST, with links for the names of other fields in its help text."""

    def link(name: re.Match[str]) -> str:
        return f"{{py:attr}}{name[0]}" if name[1] in known - {field.name} else name[0]

    text = re.sub(r"`(\w+)`", link, field.metadata["help"].replace("%%", "%"))
    choices = ", ".join(f"`{choice}`" for choice in field.metadata.get("choices", ()))
    return "\n".join(
        [
            f":::{{py:attribute}} {field.name}",
            f":type: {field.type}",
            f":value: {json.dumps(repr(field.default))}",
            "",
            text + (f"\n\nValues: {choices}." if choices else ""),
            ":::\n",
        ]
    )


def link_outside_docs_to_repository(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace relative links to files outside the site, such as the README, by links to the repository."""
    folder = Path(app.env.doc2path(docname)).parent

    def replaced(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        inside = target.is_relative_to(DOCS)
        return link[0] if inside else f"](repository:{target.relative_to(DOCS.parent).as_posix()}"

    source[0] = re.sub(r"\]\((\.\./[^)#\s]+)", replaced, source[0])


def fences_as_directives(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the Markdown code fences of a docstring as reStructuredText code blocks."""
    inside = False
    for number, line in enumerate(lines):
        if line.lstrip().startswith("```"):
            lines[number] = "" if inside else line.replace("```", ".. code-block:: ") + "\n"
            inside = not inside
        elif inside:
            lines[number] = f"    {line}"
    lines[:] = "\n".join(lines).split("\n")


def setup(app: Sphinx) -> None:
    """Register the directive and the handlers of this site."""
    npt.NDArray, npt.ArrayLike = Array, np.ndarray
    next(field for field in PyObject.doc_field_types if field.name == "variable").label = "Attributes"
    app.add_directive("config-group", ConfigGroup)
    app.connect("source-read", link_outside_docs_to_repository)
    app.connect("autodoc-process-docstring", fences_as_directives, priority=400)  # before napoleon's 500
