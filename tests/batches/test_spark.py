"""Spark with two real Python workers: `mapInPandas` and `mapInArrow`."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys

import pytest

from tests.support.launch import run

SCRIPT = """
import json, sys

from pyspark.sql import SparkSession

from nuggets_trainer import GoldenScorer, NuggetsConfig, load_rows, load_scorer, score_pool

TEXTS = ["instruction", "input", "output"]
rows = load_rows("nuggets-demo/pool").select(range(24)).select_columns(TEXTS)
anchors = load_rows("nuggets-demo/anchors").select(range(6))
scorer = GoldenScorer("nuggets-demo/model", anchors.to_list())
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.sql.execution.arrow.maxRecordsPerBatch", "5")
    .getOrCreate()
)
numbered = [(place, *(row[name] for name in TEXTS)) for place, row in enumerate(rows)]
texts = "number long, instruction string, input string, output string"
frame = spark.createDataFrame(numbered, texts).repartition(2)
numbers = "golden_score double, standard_error double, mean_gain double, mean_gain_error double"
scored = f"{texts}, {numbers}, dropped string"
found = {}
for name in ("mapInPandas", "mapInArrow"):
    got = sorted(getattr(frame, name)(scorer.each, scored).collect(), key=lambda row: row["number"])
    found[name] = {column: [row[column] for row in got] for column in got[0].asDict()}
spark.stop()
config = NuggetsConfig(schedule="exact", top_k=3)
scores, _ = score_pool(*load_scorer("nuggets-demo/model"), rows, anchors, config, sys.argv[1] + "/scores")
found["pool"] = {"golden_score": scores.golden_score.tolist(), "mean_gain": scores.mean_gain.tolist()}
json.dump(found, open(sys.argv[1] + "/result.json", "w"))
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="needs `pip install pyspark`")
@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java 17")
def test_scores_in_spark_are_those_of_the_pool(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    run(command, timeout=1400, cwd=tmp_path, fresh=True, PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
    result = json.loads((tmp_path / "result.json").read_text())
    expected = result["pool"]
    assert len(set(expected["golden_score"])) > 1
    for name in ("mapInPandas", "mapInArrow"):
        found = result[name]
        assert found["number"] == list(range(24)) and found["dropped"] == [None] * 24, name
        assert found["golden_score"] == expected["golden_score"], name
        assert found["mean_gain"] == pytest.approx(expected["mean_gain"], abs=1e-5), name
