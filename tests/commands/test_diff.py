"""`nuggets diff`: two golden sets side by side."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nuggets_trainer.cli import main
from nuggets_trainer.report.difference import difference
from nuggets_trainer.report.difference_page import render_difference
from tests.support.command_line import json_result


@pytest.fixture
def changed(scored, tmp_path):
    """Copy the exact run, with other rows in the golden set and other ranks."""

    def change(**columns):
        place = tmp_path / "other"
        shutil.copytree(scored / "exact", place)
        table = pq.read_table(place / "scores.parquet")
        for name, values in columns.items():
            number = table.column_names.index(name)
            column = pa.array(values, table.schema.field(name).type)
            table = table.set_column(number, table.schema.field(name), column)
        pq.write_table(table, place / "scores.parquet")
        return place

    return change


def ranks_of(scored):
    return pq.read_table(scored / "exact" / "scores.parquet")["rank"].to_pylist()


def test_two_schedules_chose_the_same_rows(scored, capsys):
    assert main(["diff", str(scored / "exact"), str(scored / "race")]) == 0
    shown = capsys.readouterr().out
    assert "shared: 3 (100% of A, 100% of B); random sets of these sizes would share 0.2" in shown
    assert "option `schedule`: exact in A, race in B" in shown
    assert "in A alone: none\nin B alone: none" in shown


def test_rows_of_one_set_alone_have_their_rank_in_the_other(scored, changed, capsys):
    ranks = ranks_of(scored)
    order = np.argsort([rank or 999 for rank in ranks])
    kept = order[[0, 1, 7, 9]]
    reversed_ranks = [rank and len(ranks) + 1 - rank for rank in ranks]
    other = changed(selected=np.isin(np.arange(40), kept), rank=reversed_ranks)
    assert main(["diff", str(scored / "exact"), str(other), "--json"]) == 0
    found = json_result(capsys)
    assert found["sizes"] == [3, 4] and found["num_shared"] == 2 and found["num_shared_by_chance"] == 3 * 4 / 40
    assert found["shared"] == order[:2].tolist() and found["rank_correlation"] == pytest.approx(-1)
    assert found["alone"] == [[int(order[2])], order[[9, 7]].tolist()]  # best first: the other's ranks are reversed
    assert found["other_rank"] == [[reversed_ranks[order[2]]], [10, 8]]


def test_rows_without_a_rank_have_a_reason(scored, changed, capsys):
    best = int(np.argsort([rank or 999 for rank in ranks_of(scored)])[0])
    scores = pq.read_table(scored / "exact" / "scores.parquet").to_pydict()
    for name, value in (("dropped", "too_long"), ("rank", None), ("golden_score", None), ("selected", False)):
        scores[name][best] = value
    other = changed(**{name: scores[name] for name in ("dropped", "rank", "golden_score", "selected")})
    found = difference(scored / "exact", other)
    assert found.missing == ({"too_long": 1}, {}) and found.alone[0].tolist() == [best]
    assert main(["diff", str(scored / "exact"), str(other)]) == 0
    shown = capsys.readouterr().out
    assert f"in A alone: 1 row; no rank in B: too_long 1\n  row {best:,}: no rank in B" in shown


def test_scores_of_earlier_versions_are_compared_by_their_length(scored, changed, capsys, caplog):
    """They have no hash of the pool: two of them passed as one pool, and one beside a new file was refused."""
    old, new = changed(), scored / "exact"
    table = pq.read_table(old / "scores.parquet")
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"pool_sha256"}
    table = table.replace_schema_metadata(metadata)
    pq.write_table(table, old / "scores.parquet")
    for pair, named in (((old, new), f"{old}"), ((new, old), f"{old}"), ((old, old), f"{old} and {old}")):
        assert main(["diff", *map(str, pair)]) == 0
        assert "shared: 3 (100% of A" in capsys.readouterr().out
        assert f"compared by their number of rows only: the scores.parquet in {named} is of" in caplog.text
        caplog.clear()
    pq.write_table(table.slice(0, 39), old / "scores.parquet")
    assert main(["diff", str(old), str(new)]) == 1
    assert "has 39 rows with an unknown hash, and" in capsys.readouterr().err


def test_two_pools_are_refused(scored, tmp_path, capsys):
    shutil.copytree(scored / "exact", tmp_path / "other")
    table = pq.read_table(tmp_path / "other" / "scores.parquet")
    metadata = {**table.schema.metadata, b"pool_sha256": b"0" * 64}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "other" / "scores.parquet")
    assert main(["diff", str(scored / "exact"), str(tmp_path / "other")]) == 1
    assert "must come from one pool" in capsys.readouterr().err
    assert main(["diff", str(scored / "exact")]) == 2


def test_the_page_shows_the_rows_of_each_set_alone(scored, changed, tmp_path, capsys):
    ranks = ranks_of(scored)
    order = np.argsort([rank or 999 for rank in ranks])
    other = changed(selected=np.isin(np.arange(40), order[[0, 1, 7, 9]]))
    page = tmp_path / "pages" / "diff.html"
    assert main(["diff", str(scored / "exact"), str(other), "--output_file", str(page)]) == 0
    assert f"page: {page}" in capsys.readouterr().out
    text = page.read_text()
    assert "Two golden sets: <strong>2</strong> rows in both" in text and "<script" not in text
    rows = re.findall(r"<tr><td>(\d+)</td><td>(\d+)</td><td>(\d+)</td><td>([\d.]+)</td><td>([\d.]+)</td>", text)
    scores = pq.read_table(scored / "exact" / "scores.parquet")["golden_score"].to_pylist()
    alone = [int(order[2]), int(order[7]), int(order[9])]
    assert [int(row[0]) for row in rows] == alone
    for row in rows:
        index = int(row[0])
        assert int(row[1]) == int(row[2]) == ranks[index] and row[3] == row[4] == f"{scores[index]:.3f}"
    assert text.count("<details>") == 3  # their texts are kept for the report
    tops = re.findall(r"<tr><td>(\d+)</td><td>(\d+)</td><td>(\d+%)</td>", text)
    assert ("4", "4", "100%") in tops  # the rankings are the same


def test_a_page_of_another_type_is_refused_before_any_work(tmp_path, capsys):
    assert main(["diff", str(tmp_path), str(tmp_path), "--output_file", "diff.pdf"]) != 0
    assert "`output_file` must end in .html, got 'diff.pdf'" in capsys.readouterr().err


def test_the_page_of_equal_sets_and_of_files_without_texts(scored, changed, tmp_path):
    other = changed()
    for name in ("rows.parquet", "run.json"):
        (other / name).unlink()
    page = render_difference(difference(scored / "exact", other), (scored / "exact", other))
    assert page.count("<p>None.</p>") == 2 and "No option differs, or a run has no" in page
