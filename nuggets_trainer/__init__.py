"""Choose the data a language model is tuned on, inside the training job.

`SelectedSFTTrainer` takes the place of `trl.SFTTrainer`; each stage is usable without it. Names are imported on first
use, so that `nuggets --help` and the pure modules do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nuggets_trainer.batches.golden_scorer import GoldenScorer
    from nuggets_trainer.config.nuggets_config import NuggetsConfig
    from nuggets_trainer.data.loading import load_rows
    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.engine.loading import load_scorer
    from nuggets_trainer.golden.scores import GoldenScores, golden_scores
    from nuggets_trainer.golden.selection import GoldenSet, select_golden_set
    from nuggets_trainer.inspection.inspect_pool import inspect_pool
    from nuggets_trainer.pipeline.score_pool import score_pool, score_shard
    from nuggets_trainer.pipeline.select_again import select_again
    from nuggets_trainer.planning.plan_pool import plan_pool
    from nuggets_trainer.report import write_report
    from nuggets_trainer.report.dataset import push_to_hub, write_dataset
    from nuggets_trainer.store.results import PoolScores
    from nuggets_trainer.training.callback import NuggetsDataCallback
    from nuggets_trainer.training.trainer import SelectedSFTTrainer

_MODULES = {
    "GoldenScorer": "batches.golden_scorer",
    "GoldenScores": "golden.scores",
    "GoldenSet": "golden.selection",
    "NuggetsConfig": "config.nuggets_config",
    "NuggetsDataCallback": "training.callback",
    "Pool": "data.pool",
    "PoolScores": "store.results",
    "SelectedSFTTrainer": "training.trainer",
    "golden_scores": "golden.scores",
    "inspect_pool": "inspection.inspect_pool",
    "load_rows": "data.loading",
    "load_scorer": "engine.loading",
    "plan_pool": "planning.plan_pool",
    "push_to_hub": "report.dataset",
    "score_pool": "pipeline.score_pool",
    "score_shard": "pipeline.score_pool",
    "select_again": "pipeline.select_again",
    "select_golden_set": "golden.selection",
    "write_dataset": "report.dataset",
    "write_report": "report",
}

__all__ = [
    "GoldenScorer",
    "GoldenScores",
    "GoldenSet",
    "NuggetsConfig",
    "NuggetsDataCallback",
    "Pool",
    "PoolScores",
    "SelectedSFTTrainer",
    "golden_scores",
    "inspect_pool",
    "load_rows",
    "load_scorer",
    "plan_pool",
    "push_to_hub",
    "score_pool",
    "score_shard",
    "select_again",
    "select_golden_set",
    "write_dataset",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module(f"{__name__}.version").VERSION
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
