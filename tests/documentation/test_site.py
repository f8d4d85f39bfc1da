"""The documentation site builds without a warning, its links are valid, and its reference is complete."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from jupyter_client import AsyncKernelManager
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin
from nbclient import NotebookClient

import nuggets_trainer
from nuggets_trainer import NuggetsConfig
from nuggets_trainer.commands.arguments import recipe_parser
from tests.support.forked import forked
from tests.support.launch import ROOT

DOCS = ROOT / "docs"
NOTEBOOK = DOCS / "notebooks" / "first_golden_set.ipynb"
NOT_OF_THE_SITE = {"_build", "trl_proposal"}
PAGES = sorted(p for p in (*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")) if not NOT_OF_THE_SITE & set(p.parts))
READ_ON_ITS_OWN = [
    ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
]
REPOSITORY = "https://example.org/project/blob/main"


def text_of(page: Path) -> str:
    """Return the Markdown of a page, or of the cells of a notebook."""
    if page.suffix == ".md":
        return page.read_text()
    cells = nbformat.read(page, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def tokens_of(page: Path) -> Iterator[Token]:
    parser = MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=6)
    for token in parser.parse(text_of(page)):
        yield token
        yield from token.children or []


def links(page: Path) -> list[str]:
    found = [token.attrs.get("href", token.attrs.get("src")) for token in tokens_of(page)]
    html = "".join(token.content for token in tokens_of(page) if token.type in ("html_block", "html_inline"))
    return [str(link) for link in [*found, *re.findall(r'(?:href|src)="([^"]+)"', html)] if link]


def anchors(page: Path) -> set[str]:
    """Return the anchors of all headings, as GitHub makes them."""
    return {str(token.attrs["id"]) for token in tokens_of(page) if token.type == "heading_open"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the site as it is published."""
    place = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "--fail-on-warning", "--keep-going", DOCS]
    options = {"cwd": ROOT, "env": {**os.environ, "DOCS_REPOSITORY": REPOSITORY}, "capture_output": True, "text": True}
    done = subprocess.run(forked([*build, place / "html", "-d", place / "doctrees"]), **options)
    assert done.returncode == 0, done.stderr
    return place / "html"


def page_in(site: Path, page: Path) -> Path:
    return site / page.relative_to(DOCS).with_suffix(".html")


def test_the_site_has_every_page_and_leads_to_it(site):
    navigation = (site / "index.html").read_text()
    assert len(PAGES) >= 18
    for page in PAGES:
        built = page_in(site, page)
        assert built.is_file()
        assert page.stem == "index" or f'href="{built.relative_to(site)}"' in navigation, page


def article(built: Path) -> str:
    """Return the HTML of a page's text, without its code blocks."""
    html = built.read_text()
    html = html[html.index("<article") : html.index("</article>")]
    return re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)


def test_markup_is_not_shown(site):
    for page in PAGES:
        text = re.sub(r"<[^>]+>", "", article(page_in(site, page)))
        assert not re.search(r"\]\(|^#+ |\| ---", text, flags=re.MULTILINE), page


def test_links_out_of_the_docs_lead_to_the_repository(site):
    html = article(page_in(site, DOCS / "guides" / "how_it_works.md"))
    assert f'href="{REPOSITORY}/README.md' in html


def test_the_site_fetches_nothing_and_shows_no_path(site):
    for page in site.rglob("*.html"):
        html = page.read_text()
        loaded = re.findall(r'<(?:script|img|iframe|link rel="stylesheet")[^>]+(?:src|href)="([^"]+)"', html)
        assert loaded and not [link for link in loaded if ":" in link and not link.startswith("data:image/")], page
        assert str(ROOT) not in html and "file:" not in html, page


def test_every_public_name_is_in_the_reference(site):
    html = page_in(site, DOCS / "reference" / "python.md").read_text()
    described = Counter(re.findall(r'<dt [^>]*id="nuggets_trainer\.([\w.]+)"', html))
    for name in nuggets_trainer.__all__:
        assert described[name] == 1, name
    for module in (
        "golden.anchors",
        "golden.coverage",
        "racing.race",
        "golden.scores",
        "golden.selection",
        "store.read_results",
        "analysis",
    ):
        assert any(name.startswith(f"{module}.") for name in described), module


def test_every_option_is_described_once(site):
    html = page_in(site, DOCS / "reference" / "configuration.md").read_text()
    described = re.findall(r'<dt [^>]*id="nuggets_trainer\.NuggetsConfig\.(\w+)"', html)
    assert Counter(described) == Counter(field.name for field in dataclasses.fields(NuggetsConfig))
    assert "%%" not in html


def test_no_markup_of_a_docstring_is_left_over(site):
    """Single backticks become code, code fences become blocks."""
    text = article(page_in(site, DOCS / "reference" / "python.md"))
    assert "`" not in text and "::" not in text


def test_the_three_ways_to_configure_say_the_same():
    text = (DOCS / "reference" / "configuration.md").read_text()
    blocks = re.findall(r"```(python|yaml|bash)\n(.*?)```", text, re.DOTALL)
    by = dict(reversed(blocks))  # the first of each
    names: dict[str, object] = {}
    exec(by["python"], names)
    words = by["bash"].replace("\\\n", " ").split()
    assert words[:2] == ["nuggets", "train"]
    *_, parsed = recipe_parser().parse_args_and_config([*words[2:], "--bf16", "false", "--use_cpu"])
    assert names["config"] == NuggetsConfig(**yaml.safe_load(by["yaml"])) == parsed


@pytest.mark.parametrize("page", [*PAGES, *READ_ON_ITS_OWN], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https" and "." in parts.netloc and " " not in link, link
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.is_relative_to(ROOT) and target.exists(), link
        assert not parts.fragment or parts.fragment in anchors(target), link


def test_the_link_check_sees_links_and_anchors():
    assert sum(len(links(page)) for page in [*PAGES, *READ_ON_ITS_OWN]) >= 20
    assert "which-rows-are-kept" in anchors(DOCS / "reference" / "configuration.md")


def test_the_notebook_is_stored_as_it_ran():
    """The notebook has outputs in order, without errors, warnings or paths of a machine."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert len(outputs) >= 10
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not re.search(r"/(?:root|home|Users|tmp|work)/|site-packages", NOTEBOOK.read_text())


class ForkedKernel(AsyncKernelManager):
    """Starts the kernel by the stand-in for Python."""

    def format_kernel_cmd(self, extra_arguments=None):
        _, *words = super().format_kernel_cmd(extra_arguments)
        return forked([sys.executable, *words])


def run_notebook(directory: Path, **parameters: int) -> dict[str, str]:
    """Run all cells with some numbers changed, and return the text output of each cell by its id."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for name, value in parameters.items():
        cell.source, changed = re.subn(rf"^{name} = \d+", f"{name} = {value}", cell.source, flags=re.MULTILINE)
        assert changed == 1, name
    resources = {"metadata": {"path": str(directory)}}
    NotebookClient(notebook, kernel_manager_class=ForkedKernel, timeout=900, resources=resources).execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    return {
        name: "".join(output.get("text", output.get("data", {}).get("text/plain", "")) for output in found)
        for name, found in outputs.items()
    }


def test_the_notebook_runs_on_a_part_of_the_pool(tmp_path):
    shown = run_notebook(tmp_path, NUM_ROWS=40, MAX_STEPS=1)
    assert "scored 40 candidates x 27 anchors" in shown["score"]
    assert "clean rows in the golden set  100.0%" in shown["shares"]
    assert "0 pairs computed, the same golden set: True" in shown["tuned"]
    assert (tmp_path / "outputs" / "first_golden_set" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_the_notebook_shows_what_it_says(tmp_path):
    """Two minutes of a free core."""
    shown = run_notebook(tmp_path)
    losses = {name: float(loss) for name, loss in re.findall(r"^(\w+ \w+) +(0\.\d+)$", shown["losses"], re.MULTILINE)}
    assert losses["golden set"] < 0.01 < 0.1 < min(losses["base model"], losses["random rows"])
