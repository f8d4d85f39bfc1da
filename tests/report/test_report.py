"""`write_report` needs the files of a run alone, and a failure of it never costs scores."""

from __future__ import annotations

import json
import logging

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, score_pool
from nuggets_trainer import report as report_module
from nuggets_trainer.report import write_report
from tests.support.rows import alpaca_rows


def test_a_run_leaves_a_report_and_its_sources(scored):
    names = {path.name for path in scored[0].iterdir() if path.is_file()}
    assert names == {
        *("scores.parquet", "anchors.parquet", "pairs.parquet"),
        *("run.json", "rows.parquet", "report.json", "report.html"),
    }


def test_report_json_is_json(scored):
    def refuse(name):
        raise AssertionError(name)

    report = json.loads((scored[0] / "report.json").read_text(), parse_constant=refuse)
    assert len(report) > 5


def test_a_report_is_written_again_elsewhere(scored, tmp_path):
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


def test_a_directory_without_scores_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no .*run.json. Name the `score_dir` of a finished run"):
        write_report(tmp_path)


def test_a_failing_report_loses_no_scores(llama, tokenizer, tmp_path, monkeypatch, caplog):
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
