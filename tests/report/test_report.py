"""A report shows what the scores say, from files alone; texts of rows do nothing in it; it is never in the way."""

from __future__ import annotations

import html
import json
import logging
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, golden_scores, score_pool
from nuggets_trainer import report as report_module
from nuggets_trainer.data.read_row import read_row
from nuggets_trainer.report import write_report
from nuggets_trainer.report.page import ASSETS, TEXT_BUDGET, render_page, text_length
from nuggets_trainer.store.run_info import _without_secrets
from nuggets_trainer.store.shown_rows import _storable, display_texts
from nuggets_trainer.wording import visible
from tests.support.hostile import HOSTILE, hostile_rows
from tests.support.launch import ROOT
from tests.support.rows import alpaca_rows

NUM_ROWS, NUM_ANCHORS = 40, 9


def rows_with_all_fates():
    """Rows to keep, to reject and to drop: hostile ones among them, two empty, one that fits no context."""
    empty = [{"instruction": "<b>nothing</b>", "output": " "}, {"instruction": "", "output": "something"}]
    return [{"input": "", **row} for row in alpaca_rows(NUM_ROWS, seed=1) + hostile_rows() + empty]


@pytest.fixture(scope="session")
def scored(llama, tokenizer, tmp_path_factory):
    """The directory of a real scoring run, with its pool and what it returned."""
    score_dir = tmp_path_factory.mktemp("scored")
    pool = Pool(Dataset.from_list(rows_with_all_fates()))
    anchors = Pool(Dataset.from_list(alpaca_rows(NUM_ANCHORS, seed=2)), "anchors")
    config = NuggetsConfig(top_k=10, schedule="exact", template="plain")
    scores, golden_set = score_pool(llama, tokenizer, pool, anchors, config=config, score_dir=score_dir)
    return score_dir, pool, scores, golden_set


@pytest.fixture(scope="session")
def figures(scored):
    return json.loads((scored[0] / "report.json").read_text())


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


def test_a_scoring_run_leaves_a_report_and_all_that_it_was_made_of(scored):
    names = {path.name for path in scored[0].iterdir() if path.is_file()}
    assert names == {
        *("scores.parquet", "anchors.parquet", "pairs.parquet"),
        *("run.json", "rows.parquet", "report.json", "report.html"),
    }


def test_the_figures_are_those_of_the_scores(scored, figures):
    _, _, scores, golden_set = scored
    cut = figures["cut"]
    assert cut["num_kept"] == len(golden_set) == 10 and cut["num_candidates"] == golden_set.num_candidates
    assert cut["score"] == golden_set.cut and cut["mean_gain"] == golden_set.mean_gain[-1]
    assert (cut["ties"], cut["ties_kept"]) == (golden_set.ties_at_cut, golden_set.ties_kept)
    assert sum(figures["scores"]["kept"]) == 10 == sum(figures["gains"]["kept"])
    scored_rows = int((~np.isnan(scores.golden_score)).sum())
    assert sum(figures["scores"]["kept"] + figures["scores"]["rejected"]) == scored_rows
    assert sum(map(sum, figures["length"]["counts"])) == scored_rows == figures["length"]["num_sampled"]


def test_anchors_are_counted_as_the_matrix_says(scored, figures):
    """Against the whole matrix at once, in float64, with numpy's own correlation."""
    score_dir, _, scores, golden_set = scored
    one_shot = np.array(pq.read_table(score_dir / "pairs.parquet")["one_shot"].to_pylist(), dtype=np.float32)
    rows = ~np.isnan(scores.golden_score)
    won = one_shot > scores.anchors.zero_shot
    kept = np.isin(np.arange(len(won)), golden_set.indices)
    seen = 0
    for j, anchor in enumerate(figures["anchors"]):
        there = rows & ~np.isnan(one_shot[:, j])
        rest = golden_scores(np.delete(scores.anchors.zero_shot, j), np.delete(one_shot, j, axis=1)).golden_score
        assert (anchor["pairs"], anchor["pairs_won"]) == (there.sum(), won[there, j].sum())
        assert anchor["won"] == pytest.approx(won[there, j].mean())
        assert anchor["won_by_kept"] == pytest.approx(won[there & kept, j].mean())
        gain = one_shot[there, j].astype(np.float64) - scores.anchors.zero_shot[j]
        assert anchor["mean_gain"] == pytest.approx(gain.mean(), abs=1e-6)
        if 0 < won[there, j].mean() < 1:
            expected = np.corrcoef(won[there, j], rest[there])[0, 1]
            assert anchor["discrimination"] == pytest.approx(expected, abs=1e-4)
            seen += 1
    assert seen >= 3


def test_each_row_says_what_became_of_it_and_why(scored, figures):
    _, pool, scores, golden_set = scored
    rows = {row["index"]: row for row in figures["rows"]}
    assert len(rows) == len(figures["rows"]) == len(pool)  # a small pool is shown whole
    assert [i for i, row in rows.items() if row["status"] == "kept"] == golden_set.indices.tolist()
    for i, reason in enumerate(scores.dropped):
        assert (rows[i]["status"] == "dropped") == (reason is not None)
        assert reason is None or f"({reason})" in rows[i]["why"]
    assert {"kept", "below", "dropped"} <= {row["status"] for row in rows.values()}
    assert all(row["why"].endswith(".") for row in rows.values())


def test_what_a_race_left_early_is_told_with_its_bound(llama, tokenizer, tmp_path):
    pool = Pool(Dataset.from_list(alpaca_rows(150, seed=1)))
    anchors = Pool(Dataset.from_list(alpaca_rows(12, seed=2)), "anchors")
    config = NuggetsConfig(top_k=3, template="plain")
    scores, _ = score_pool(llama, tokenizer, pool, anchors, config=config, score_dir=tmp_path)
    assert scores.num_eliminated > 0
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["cut"]["num_eliminated"] == scores.num_eliminated == sum(figures["scores"]["eliminated"])
    eliminated = [row for row in figures["rows"] if row["status"] == "eliminated"]
    assert eliminated and all(
        row["golden_score"] is None and row["upper_bound"] <= figures["cut"]["score"] for row in eliminated
    )
    shown = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    pilot = [row["index"] for row in shown if row["part"] == "pilot"]
    assert figures["cut"]["num_sampled"] == len(pilot) == 12  # the root of 150, as the race's own
    assert all(np.isnan(scores.upper_bound[pilot]))
    one_shot = np.array(pq.read_table(tmp_path / "pairs.parquet")["one_shot"].to_pylist(), dtype=np.float32)
    won = (one_shot > scores.anchors.zero_shot)[pilot].mean(axis=0)
    assert [anchor["won"] for anchor in figures["anchors"]] == pytest.approx(won.tolist())
    assert any("upper bound, but no golden score" in caution["title"] for caution in figures["cautions"])


def test_the_page_has_no_tag_of_a_row_and_fetches_nothing(scored):
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


def test_characters_that_act_on_their_surroundings_are_named():
    shown = visible("".join(chr(code) for code in range(0x3000)) + "\ud800\ufeff")
    assert "\u202e" not in shown and "[U+202E]" in shown and "[U+D800]" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", shown)
    assert visible("a\tb\n\u0645\u05e9 \u0301") == "a\tb\n\u0645\u05e9 \u0301"


def test_a_lone_surrogate_is_stored_as_a_replacement():
    """UTF-8 has none, but a user's `formatting_func` may write one."""
    assert _storable("a\udc80b\U0001f600") == "a\ufffdb\U0001f600"


def test_the_script_of_the_page_is_the_one_that_its_policy_allows(figures):
    page = render_page(figures)
    script = re.search(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert script and script.group(1) == (ASSETS / "report.js").read_text()
    assert "innerHTML" not in script.group(1) and "eval" not in script.group(1)


def test_texts_of_a_page_stay_within_their_budget():
    rows = [{"prompt": "x" * 4000, "completion": "y" * 4000}] * 800
    length = text_length(rows)
    assert length == 500 and 2 * 800 * length <= TEXT_BUDGET
    assert text_length(rows[:10]) == 2000


def test_report_json_is_json(scored):
    def refuse(name):
        raise AssertionError(name)

    report = json.loads((scored[0] / "report.json").read_text(), parse_constant=refuse)
    assert len(report) > 5


def test_a_report_is_written_again_from_the_directory_alone_also_elsewhere(scored, tmp_path):
    score_dir = scored[0]
    before = (score_dir / "report.html").read_text()
    write_report(score_dir, tmp_path / "new")
    assert (tmp_path / "new" / "report.html").read_text() == before


def test_a_report_reads_and_writes_behind_a_url(scored):
    import fsspec

    remote = fsspec.filesystem("memory")
    remote.put(str(scored[0]) + "/", "/reported/", recursive=True)
    write_report("memory://reported", "memory://elsewhere")
    assert remote.cat_file("/elsewhere/report.html") == (scored[0] / "report.html").read_bytes()


def test_a_directory_without_scores_is_an_error_that_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no .*run.json. Name the `score_dir` of a finished run"):
        write_report(tmp_path)


def test_nothing_that_goes_wrong_with_a_report_loses_scores(llama, tokenizer, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no page today")

    monkeypatch.setattr(report_module, "render_page", fail)
    pool, anchors = (Pool(Dataset.from_list(alpaca_rows(n, seed=n))) for n in (8, 3))
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        scores, golden_set = score_pool(
            llama, tokenizer, pool, anchors, config=NuggetsConfig(top_k=2, template="plain"), score_dir=tmp_path
        )
    assert len(golden_set) == 2 and pq.read_table(tmp_path / "scores.parquet").num_rows == len(scores) == 8
    assert "are complete, but the report could not be written: RuntimeError: no page today" in caplog.text
    assert not (tmp_path / "report.html").exists()


def test_a_signal_check_is_shown_where_there_is_one(scored, tmp_path):
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


def test_the_signal_check_of_another_scorer_is_not_shown(scored, tmp_path):
    """Made in the same directory before, it would warn of, or vouch for, a model that it never saw."""
    for path in scored[0].glob("*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "run.json").write_bytes((scored[0] / "run.json").read_bytes())
    other = {"corruptions": [], "verdict": "none", "fingerprint": "0" * 16}
    (tmp_path / "signal_check.json").write_text(json.dumps(other))
    assert write_report(tmp_path)["signal_check"] is None


def test_secrets_in_the_configuration_are_not_shown():
    config = NuggetsConfig(scorer_model="x", scorer_model_init_kwargs='{"token": "hf_abc", "dtype": "float32"}')
    assert _without_secrets(config)["scorer_model_init_kwargs"] == {"token": "(not shown)", "dtype": "float32"}


def test_rows_of_any_format_are_shown_as_text(tokenizer):
    """Messages with their roles, tokens decoded."""

    def shown(record, row_format):
        return display_texts(read_row(record, row_format), lambda ids: tokenizer.decode(ids))

    messages = [{"role": role, "content": text} for role, text in (("system", "S"), ("user", "U"), ("assistant", "A"))]
    row = shown({"messages": messages}, "messages")
    assert (row["prompt"], row["completion"], row["completion_length"]) == ("[system]\nS\n\n[user]\nU", "A", 1)
    ids = tokenizer("one two three")["input_ids"]
    row = shown({"input_ids": ids, "labels": [-100] * (len(ids) - 1) + ids[-1:]}, "tokenized")
    assert row["prompt"] + row["completion"] == tokenizer.decode(ids) and row["completion_length"] == 1


@pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="needs /usr/bin/chromium (Debian package chromium)")
def test_in_a_browser_the_page_fits_is_silent_and_can_be_searched(scored):
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
