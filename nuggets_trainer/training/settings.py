"""The settings that a golden set depends on. They are saved with it, and a resumed job compares its own with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nuggets_trainer.config.anchor_options import DEFAULT_NUM_ANCHORS
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.store.fingerprint import config_hash

if TYPE_CHECKING:
    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.prompts.templates import Template
    from nuggets_trainer.scoring.session import AnchorPools

# Options that are named only if they are set: unset, they do not influence the golden set.
IF_SET = (
    "scorer_model",
    "scorer_model_init_kwargs",
    "reselect_steps",
    "coverage_weight",
    "group_by",
    "max_similarity",
)
# Options that are named only if they are not the default, for the same reason.
UNLESS_DEFAULT = {"reselect": "no", "group_quota": "proportional", "combine_anchor_sets": "mean"}


def selection_settings(
    config: NuggetsConfig, pool: Pool, anchors: AnchorPools | None, template: Template, model: Any
) -> dict[str, str]:
    """Collect what the golden set depends on.

    The model is named by its config alone: a hash of its weights would read gigabytes.

    Args:
        config: user's config.
        pool: candidates.
        anchors: anchors by set; None if they are chosen from the pool.
        template: template that renders the rows.
        model: model that is tuned.

    Returns:
        Values by name, all of them texts.
    """
    settings = {
        "pool_rows": str(len(pool)),
        "pool_sha256": pool.content_hash,
        "anchors": _describe_anchors(config, anchors),
        "rule": "{}={}".format(*config.selection_rule),
        "exclude_self": str(config.exclude_self),
        "score_dtype": config.score_dtype,
        "model_config_sha256": config_hash(model),
    }
    described = template.describe()
    # A rendered chat may hold today's date, and a job must be resumable tomorrow.
    described.pop("chat_template_renders_sha256", None)
    settings.update(described)
    for name, default in UNLESS_DEFAULT.items():
        value = getattr(config, name)
        if value != default:
            settings[name] = value
    for name in IF_SET:
        value = getattr(config, name)
        if value is not None:
            settings[name] = str(value)
    return settings


def _describe_anchors(config: NuggetsConfig, anchors: AnchorPools | None) -> str:
    if anchors is None:
        number = config.num_anchors or DEFAULT_NUM_ANCHORS
        return f"{config.anchor_selection} {number}, seed {config.anchor_seed}"
    # Where an unreadable anchor stands does not change a golden score.
    hashes = [f"{name} sha256 {pool.hash_without_places}".strip() for name, pool in anchors.items()]
    return f"given, {', '.join(hashes)}"
