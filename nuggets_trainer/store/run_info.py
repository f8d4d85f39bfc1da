"""`run.json`: how the scores beside it came about. Pool, selection rule, configuration, fingerprint, device, versions.

`RunFacts` holds what the run alone knows; the rest is read off the pool, the scores and the golden set.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from nuggets_trainer.store.files import Place, join, write_atomically
from nuggets_trainer.store.results import count_reasons
from nuggets_trainer.store.shown_rows import length_unit
from nuggets_trainer.version import VERSION, installed_version

if TYPE_CHECKING:
    from nuggets_trainer.config.nuggets_config import NuggetsConfig
    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.store.results import PoolScores

RUN_FILE = "run.json"
LAYOUT = 1
# Options for `from_pretrained` that nobody wants in a file to show around.
SECRETS = ("token", "password", "secret", "credential", "api_key")
PACKAGES = ("accelerate", "datasets", "numpy", "peft", "torch", "transformers", "trl")


@dataclass(frozen=True)
class RunFacts:
    """Facts that a run knows and its scores do not hold.

    Attributes:
        model: name or path of the scorer model.
        config: the configuration of the run.
        template: name of the template.
        fingerprint: id of the fingerprint, the name of the store's directory.
        fingerprint_fields: names and values that the id is made of.
        num_processes: processes that scored.
        device: name of the main process's device.
        engine_path: the engine's way of computing log-probs; None if nothing was computed.
        tokens_per_batch: token budget of one forward pass; None if nothing was computed.
        found: what the run has found out besides the scores, by name.
        remarks: number of `candidates` and of `anchors` with each remark of `prompts.segment.Remark`.
    """

    model: str
    config: NuggetsConfig
    template: str
    fingerprint: str
    fingerprint_fields: dict[str, str]
    num_processes: int
    device: str
    engine_path: str | None
    tokens_per_batch: int | None
    found: dict[str, Any] = field(default_factory=dict)
    remarks: dict[str, dict[str, int]] = field(default_factory=dict)


def write_run_info(score_dir: Place, facts: RunFacts, pool: Pool, scores: PoolScores, golden_set: GoldenSet) -> None:
    """Write run.json.

    Args:
        score_dir: directory of the scores; a local path, or a URL for fsspec.
        facts: what the run knows of itself.
        pool: the rows that were scored.
        scores: their scores.
        golden_set: the rows that were kept.

    Raises:
        OSError: if the file cannot be written.
    """
    run = {
        "model": facts.model,
        "layout": LAYOUT,
        "written_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "pool": {
            "num_rows": len(pool),
            "format": pool.format,
            "columns": list(pool.dataset.column_names),
            "sha256": pool.content_hash,
        },
        "anchors": {
            "given": all(index is None for index in scores.anchors.pool_index),
            "num_anchors": len(scores.anchors),
            "dropped": count_reasons(scores.anchors.dropped),
            "num_cut": scores.anchors.num_cut,
        },
        "length_unit": length_unit(pool),
        "rule": list(golden_set.rule),
        "rank_by": golden_set.rank_by,
        "golden_set": golden_set.summary(),
        "groups": golden_set.groups,
        "scoring": scores.summary(),
        "dropped": dict(count_reasons(scores.dropped).most_common()),
        **facts.found,
        "remarks": facts.remarks,
        "config": _without_secrets(facts.config),
        "template": facts.template,
        "fingerprint": {"id": facts.fingerprint, "fields": facts.fingerprint_fields},
        "device": {
            "processes": facts.num_processes,
            "device": facts.device,
            "path": facts.engine_path,
            "tokens_per_batch": facts.tokens_per_batch,
        },
        "versions": {
            "nuggets_trainer": VERSION,
            "python": platform.python_version(),
            **{package: installed_version(package) for package in PACKAGES},
        },
    }
    write_atomically(join(score_dir, RUN_FILE), json.dumps(run, indent=1, default=str).encode())


def _without_secrets(config: NuggetsConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    if config.scorer_model_init_kwargs is None:
        return values
    shown = dict(config.scorer_kwargs)
    for name in shown:
        if any(word in name.lower() for word in SECRETS):
            shown[name] = "(not shown)"
    return {**values, "scorer_model_init_kwargs": shown}
