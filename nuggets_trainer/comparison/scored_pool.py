"""What is computed about a pool before any arm is trained: signals of each row, scores of all pairs, their costs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from trl import ModelConfig, SFTConfig

from nuggets_trainer.comparison.arms import PROMPT, Arm
from nuggets_trainer.comparison.evidence import Evidence
from nuggets_trainer.comparison.stage_costs import Spent, update_costs
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.places import score_dir_of_job
from nuggets_trainer.engine.loading import load_scorer_of
from nuggets_trainer.pipeline.auto_anchors import anchors_of
from nuggets_trainer.pipeline.diversity import prompt_numbers
from nuggets_trainer.pipeline.request import AsTrained, read_request
from nuggets_trainer.pipeline.rows import read_pool, scorer_tokenizer
from nuggets_trainer.pipeline.score_pool import score_request
from nuggets_trainer.pipeline.stages import render_selectable
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.scoring.session import ScoringRequest, open_session
from nuggets_trainer.signals.examples import ExampleContexts
from nuggets_trainer.signals.in_context import in_context_losses, in_context_name
from nuggets_trainer.signals.row_signals import row_signals, signal_names
from nuggets_trainer.signals.stored_values import share_missing
from nuggets_trainer.store.files import make_directory
from nuggets_trainer.store.read_results import read_log_probs, read_optional, read_signal_check
from nuggets_trainer.store.run_info import RUN_FILE
from nuggets_trainer.training.job_arguments import load_options
from nuggets_trainer.training.rows import find_training_chat_template, find_training_dtype, row_options

COVERAGE_WEIGHT = 0.5  # weight of the arm `coverage`, unless `coverage_weight` is given


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class ScoredPool:
    """What is computed about the rows of a pool.

    Attributes:
        evidence: what the arms choose by.
        costs: seconds of each stage, such as `scoring` and `signals`; None for what another job computed.
        signal_check: content of signal_check.json; None if the check was not made.
        contamination: result of `check_heldout`, how many rows hold the prompts of held-out rows.
    """

    evidence: Evidence
    costs: dict[str, float | None]
    signal_check: dict[str, Any] | None
    contamination: dict[str, Any] = field(default_factory=dict)

    def seconds_of(self, stages: Sequence[str]) -> float | None:
        """Return the seconds of some stages together; None if one of them was not measured."""
        total = 0.0
        for stage in stages:
            seconds = self.costs[stage]
            if seconds is None:
                return None
            total += seconds
        return total


def score_for_arms(
    dataset: Dataset,
    args: SFTConfig,
    model: ModelConfig,
    nuggets: NuggetsConfig,
    arms: Sequence[Arm],
    race_fraction: float | None = None,
) -> ScoredPool:
    """Compute the signals of each row and score the pairs of the pool once; what is stored is not computed again.

    All ranks must call it.

    Args:
        dataset: all rows.
        args: training arguments.
        model: model arguments.
        nuggets: options of scoring; its selection rule is not used.
        arms: arms that will be run.
        race_fraction: share of the pool whose golden set a race finds; None scores every pair. An arm that needs every
            pair, or the condition `require`, wins over it.

    Raises:
        ValueError: if an arm needs prompts, and the rows have none.
    """
    score_dir = nuggets.score_dir or score_dir_of_job(args.output_dir)
    Ranks().on_main(lambda: make_directory(args.output_dir))  # before hours of scoring: the costs go there
    changes: dict[str, Any] = {"schedule": "exact", "row_signals": True}
    changes |= {"coverage_weight": None, "max_rows_per_prompt": None}  # they are options of arms
    if any("ica" in arm.columns for arm in arms):
        changes["ica"] = True
    if race_fraction is not None and race_is_enough(nuggets, arms):
        changes.update(schedule="race", top_fraction=race_fraction)
    config = dataclasses.replace(nuggets, score_dir=score_dir, **changes)
    own = load_options(args, model)
    scorer, tokenizer = load_scorer_of(config, model.model_name_or_path, Ranks().device, own)
    request = _make_request(scorer, tokenizer, dataset, config, args)
    for arm in arms:
        if request.pool.is_text_only and {"ifd", PROMPT}.intersection(arm.columns):
            raise ValueError(
                f"The arm `{arm.name}` needs rows with a prompt, but these are text alone. Leave it out of `arms`."
            )
    spent = _compute_signals(scorer, request)
    scores, _ = score_request(scorer, request)
    num_pairs = int(scores.num_anchors.sum())
    scored_share = min(1.0, scores.num_pairs_scored / num_pairs)
    stage = "scoring" if config.schedule == "exact" else "race"  # a race costs less than all pairs
    spent[stage] = Spent(scores.seconds, scored_share, num_pairs)
    costs = Ranks().on_main(lambda: update_costs(Path(args.output_dir) / "costs.json", spent))
    costs["scoring"] = costs[stage]
    zero_shot, one_shot = read_log_probs(score_dir)
    columns = dict(scores.signals)
    if any(PROMPT in arm.columns for arm in arms):
        columns[PROMPT] = prompt_numbers(request.pool).astype(np.float64)
    evidence = Evidence(
        scores=scores,
        usable=np.flatnonzero([reason is None for reason in scores.dropped]),
        columns=columns,
        zero_shot=zero_shot,
        one_shot=one_shot,
        has_every_pair=config.schedule == "exact",
        coverage_weight=nuggets.coverage_weight or COVERAGE_WEIGHT,
        meets_require=scores.meets_require,
        max_rows_per_prompt=nuggets.max_rows_per_prompt or 1,
    )
    return ScoredPool(evidence, costs, read_signal_check(score_dir, read_optional(score_dir, RUN_FILE)))


def race_is_enough(nuggets: NuggetsConfig, arms: Sequence[Arm]) -> bool:
    """Return whether all arms can choose their rows after a race.

    A race drops the rows that do not meet `require`, but arms such as `full` and `random` take those too.
    """
    return nuggets.require is None and not any(arm.needs_every_pair for arm in arms)


def _compute_signals(scorer: Any, request: ScoringRequest) -> dict[str, Spent]:
    """Compute the signals of each row into the store, by themselves, because the arms that need no pair cost no more.

    All ranks must call it.

    Returns:
        What this job spent, by stage; sizes are in rows.
    """
    with open_session(scorer, request) as session:
        rendered = render_selectable(session, anchors_of(session).anchor_set, range(len(request.pool)))
        anchor_set, candidates = rendered.anchor_set, rendered.candidates
        share = share_missing(session, candidates, signal_names(session, anchor_set))
        started = time.monotonic()
        row_signals(session, anchor_set, candidates)
        spent = {"signals": Spent(time.monotonic() - started, share, len(candidates))}
        if request.config.wants_ica:
            contexts = ExampleContexts(session, anchor_set)
            share = share_missing(session, candidates, [in_context_name(contexts)])
            started = time.monotonic()
            in_context_losses(session, contexts, candidates)
            spent["ica"] = Spent(time.monotonic() - started, share, len(candidates))
    return spent


def _make_request(
    scorer: Any, tokenizer: Any, dataset: Dataset, config: NuggetsConfig, args: SFTConfig
) -> ScoringRequest:
    """Turn the arguments into a request as a trainer does, so that both select the same rows."""
    training_options = row_options(args)
    tokenizer = scorer_tokenizer(tokenizer, config, training_options)
    as_trained = AsTrained(
        row_options=training_options,
        training_chat_template=find_training_chat_template(tokenizer, training_options),
        training_dtype=find_training_dtype(args.bf16, args.fp16),
    )
    pool = read_pool(dataset, config, training_options, name="dataset_name")
    return read_request(scorer, tokenizer, pool, config=config, as_trained=as_trained)
