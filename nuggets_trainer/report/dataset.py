"""The golden set and its scores as a dataset: in a directory, or on the hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nuggets_trainer.report.cards import dataset_card
from nuggets_trainer.report.figures import read_figures
from nuggets_trainer.store.files import Place, join, read_bytes
from nuggets_trainer.store.read_results import are_scored_rows, read_run_info, read_scores

if TYPE_CHECKING:
    from datasets import Dataset

    from nuggets_trainer.data.pool import Pool


def golden_rows(score_dir: Place, pool: Pool) -> Dataset:
    """Return the rows that a scoring run kept, best first, in the pool's own columns.

    Args:
        score_dir: directory of a finished scoring run; a local path, or a URL for fsspec.
        pool: the rows that were scored.

    Raises:
        FileNotFoundError: if the scores are not there; the error says what to run.
        ValueError: if the pool is not the one that was scored.
    """
    run, scores = read_run_info(score_dir), read_scores(score_dir)
    if not are_scored_rows(scores, run["pool"]["sha256"], pool):
        raise ValueError(
            f"`pool` must be the pool that was scored: {run['pool']['num_rows']:,} rows with the hash "
            f"{run['pool']['sha256']}, got {len(pool):,} rows with the hash {pool.content_hash}. Give the rows of "
            f"{score_dir} in their order, read in the same way."
        )
    kept = scores.selected.nonzero()[0]
    return pool.dataset.select(kept[scores.rank[kept].argsort(kind="stable")])


def write_dataset(score_dir: Place, pool: Pool, directory: str | Path, title: str = "Golden set") -> None:
    """Write a directory that `load_dataset` reads: golden set, scores of all rows, anchors, dataset card.

    The report is left out, because it shows texts of rows that were not kept.

    Args:
        score_dir: directory of a finished scoring run; a local path, or a URL for fsspec.
        pool: the rows that were scored.
        directory: path of the dataset; created if it is not there.
        title: heading of the card.

    Raises:
        FileNotFoundError: if the scores are not there; the error says what to run.
        ValueError: if the pool is not the one that was scored.
    """
    directory = Path(directory)
    rows = golden_rows(score_dir, pool)
    for name in ("golden_set", "scores", "anchors"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    rows.to_parquet(directory / "golden_set" / "train.parquet")
    for name in ("scores", "anchors"):
        (directory / name / "train.parquet").write_bytes(read_bytes(join(score_dir, f"{name}.parquet")))
    card = dataset_card(read_figures(score_dir), title, pool.hub_sources)
    (directory / "README.md").write_text(card, encoding="utf-8")


def push_to_hub(
    score_dir: Place, pool: Pool, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> str:
    """Upload what `write_dataset` writes in one commit; the repository is created if there is none.

    Args:
        score_dir: directory of a finished scoring run; a local path, or a URL for fsspec.
        pool: the rows that were scored.
        repo_id: name of the dataset, `user/name`.
        private: whether a new repository is private; None takes the default of the account or organisation.
        token: access token of the hub; None takes the one that is logged in.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError, ValueError: as in `write_dataset`, before anything is sent.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as directory:
        write_dataset(score_dir, pool, directory, title=repo_id.rpartition("/")[2])
        api = HfApi(token=token)
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        message = "Golden set and scores, by nuggets_trainer"
        commit = api.upload_folder(repo_id=repo_id, folder_path=directory, repo_type="dataset", commit_message=message)
    return str(commit.commit_url)
