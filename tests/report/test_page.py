"""The page shows every text and runs none of it; it fits a desktop and a phone."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, score_pool
from nuggets_trainer.report import write_report
from nuggets_trainer.report.page import ASSETS, TEXT_BUDGET, render_page, text_length
from nuggets_trainer.wording import visible
from tests.support.hostile import HOSTILE
from tests.support.launch import ROOT
from tests.support.rows import alpaca_rows


class Tags(HTMLParser):
    """What a page is made of, as an HTML parser sees it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: set[str] = set()
        self.urls: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.attributes |= {name for name, _ in attributes}
        self.urls += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]


def test_the_page_has_no_tag_of_a_row(scored):
    page = (scored[0] / "report.html").read_text()
    tags = Tags(page)
    assert tags.names.count("script") == tags.names.count("style") == 1
    assert not {"img", "link", "iframe", "object", "embed", "base", "b1"} & set(tags.names)
    assert not {name for name in tags.attributes if name.startswith("on")} and "style" not in tags.attributes
    assert all(url.startswith("#") or url == "https://arxiv.org/abs/2312.10302" for url in tags.urls)
    policy = html.unescape(page.partition('Content-Security-Policy" content="')[2].partition('"')[0])
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
    assert "window.hacked" in page  # it is there, as text


def test_every_hostile_text_is_shown(scored):
    class Texts(HTMLParser):
        text = ""

        def handle_data(self, data):
            self.text += data

    parser = Texts()
    parser.feed((scored[0] / "report.html").read_text())
    for name, text in HOSTILE.items():
        assert f"{name}: {visible(text)}"[:100].strip() in parser.text, name
    assert "Shown: the first 2,000 of 108,009 characters." in parser.text


def test_characters_that_act_are_named():
    shown = visible("".join(chr(code) for code in range(0x3000)) + "\ud800\ufeff")
    assert "\u202e" not in shown and "[U+202E]" in shown and "[U+D800]" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", shown)
    assert visible("a\tb\n\u0645\u05e9 \u0301") == "a\tb\n\u0645\u05e9 \u0301"


def test_the_policy_allows_the_page_its_script(figures):
    page = render_page(figures)
    script = re.search(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert script and script.group(1) == (ASSETS / "report.js").read_text()
    assert "innerHTML" not in script.group(1) and "eval" not in script.group(1)


def test_texts_of_a_page_stay_within_their_budget():
    rows = [{"prompt": "x" * 4000, "completion": "y" * 4000}] * 800
    length = text_length(rows)
    assert length == 500 and 2 * 800 * length <= TEXT_BUDGET
    assert text_length(rows[:10]) == 2000


def test_a_signal_check_is_shown(scored, tmp_path):
    for path in scored[0].glob("*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "run.json").write_bytes((scored[0] / "run.json").read_bytes())
    corruption = {"corruption": "shuffled_<b>words</b>", "ranked_right": 0.53, "interval": [0.4, 0.66]}
    own = json.loads((tmp_path / "run.json").read_text())["fingerprint"]["id"]
    found = {"corruptions": [{**corruption, "num_candidates": 32}], "verdict": "none", "fingerprint": own}
    (tmp_path / "signal_check.json").write_text(json.dumps(found))
    figures = write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "shuffled &lt;b&gt;words&lt;/b&gt;" in page and "0.40 to 0.66" in page
    assert "cannot tell examples from corrupted ones" in figures["cautions"][0]["title"]
    of_own = f'"fingerprint": "{own}"'
    odd_ones = (f'{{{of_own}, "corruptions": 3}}', f'{{{of_own}, "corruptions": [{{"corruption": "x"}}]}}')
    for odd in ("[1, 2]", "{}", "{", *odd_ones):
        (tmp_path / "signal_check.json").write_text(odd)
        write_report(tmp_path)


@pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="needs /usr/bin/chromium (Debian package chromium)")
def test_the_page_works_in_a_browser(scored):
    """Desktop and phone, light and dark: see tests/support/browser.py, a process of its own."""
    pytest.importorskip("playwright")
    command = [sys.executable, str(ROOT / "tests" / "support" / "browser.py"), str(scored[0] / "report.html")]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)
    assert len(found) == 4
    for view in found:
        assert view["content_width"] <= view["width"], view["width"]
        assert view["messages"] == [] and view["requests"] == ["report.html"]
        assert view["hacked"] is None and view["headings"] == 1 and view["title"].startswith("Golden set: 10 of")
        assert 0 < view["shown_at_first"] <= 25
        assert view["found"] == ["1 row", "1 row", "0 rows"]
        assert view["found_kept"] == "10 rows"
        assert view["first_by_pool"] == "0"
        assert view["open_width"] <= view["width"]


def test_rows_show_their_own_columns(llama, tokenizer, tmp_path):
    rows = []
    for i, row in enumerate(alpaca_rows(12, seed=7)):
        rows.append({**row, "kind": f"<i>kind {i}</i>", "stars": i, "notes": "x" * 500, "tags": ["a"]})
    pool = Pool(Dataset.from_list(rows))
    anchors = Pool(Dataset.from_list(alpaca_rows(3, seed=8)), "anchors")
    config = NuggetsConfig(top_k=3, template="plain", schedule="exact")
    score_pool(llama, tokenizer, pool, anchors, config=config, score_dir=tmp_path)
    figures = json.loads((tmp_path / "report.json").read_text())
    for row in figures["rows"]:
        i = row["index"]
        assert row["columns"] == {"kind": f"<i>kind {i}</i>", "stars": i}  # neither its texts nor long values
    page = (tmp_path / "report.html").read_text()
    assert "&lt;i&gt;kind 3&lt;/i&gt;" in page and "<i>kind" not in page
    columns = pq.read_table(tmp_path / "rows.parquet").drop_columns(["columns"])
    pq.write_table(columns, tmp_path / "rows.parquet")  # as earlier versions wrote it
    assert all(row["columns"] == {} for row in write_report(tmp_path)["rows"])
