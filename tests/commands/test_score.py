"""`nuggets score`: results as text and as JSON."""

from __future__ import annotations

import logging
import re

from nuggets_trainer.cli import main
from tests.support.command_line import DEMO, json_result


def test_cautions_are_logged_and_in_the_json(scored, tmp_path, capsys, caplog):
    """They were in report.html alone, which nobody had opened."""
    options = [*DEMO, "--dataset_name", str(scored / "pool.jsonl"), "--anchors", str(scored / "anchors.jsonl")]
    options += ["--score_dir", str(tmp_path / "s"), "--schedule", "exact", "--top_k", "3"]
    caplog.set_level(logging.INFO, "nuggets_trainer")
    assert main(["score", *options]) == 0
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.fullmatch("Caution: [0-9]+ rows tie at the cut.", told[0])
    assert told[-1] == f"What the cautions mean, and what to do: {tmp_path / 's' / 'report.html'}"
    results = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("scored ", "golden set: "))]
    assert len(results) == 2 and not any(line in caplog.text for line in results)  # each line once
    assert main(["score", *options, "--json"]) == 0
    of_score = json_result(capsys)
    assert main(["report", str(tmp_path / "s"), "--json"]) == 0
    of_report = json_result(capsys)
    assert of_score["cautions"] == of_report["cautions"]
    assert "golden set: 3 of 40" in caplog.text  # beside the JSON, for people
    assert {"warn", "note"} == {caution["level"] for caution in of_report["cautions"]}
    counts = [value for name, value in of_score.items() if name.startswith(("num_", "ties_", "golden_set_size"))]
    assert len(counts) >= 8 and all(isinstance(count, int) for count in counts)  # 3, and not 3.0


def test_rows_are_ranked_by_a_signal_and_no_pair_is_scored(scored, tmp_path, capsys):
    options = [*DEMO, "--dataset_name", str(scored / "pool.jsonl"), "--score_dir", str(tmp_path)]
    rule = ["--rank_by", "num_tokens", "--top_k", "3", "--json"]
    assert main(["plan", *options, *rule]) == 0
    assert json_result(capsys)["num_pairs"] == 0
    assert main(["score", *options, *rule]) == 0
    printed = json_result(capsys)
    assert printed["num_pairs_scored"] == 0 and len(printed["indices"]) == 3
    assert main(["select", str(tmp_path), *rule]) == 0
    assert json_result(capsys)["indices"] == printed["indices"]
