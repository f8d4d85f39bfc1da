"""`NuggetsConfig`: every choice that selection leaves to the user. Knows no torch and no files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from nuggets_trainer.config.config_checks import (
    ANCHOR_SELECTIONS,
    COMBINATIONS,
    GROUP_QUOTAS,
    RESELECT,
    SCHEDULES,
    SCORE_DTYPES,
    TEMPLATES,
    check_config,
)
from nuggets_trainer.config.removed import refuse_removed

DEFAULT_TOP_FRACTION = 0.1
DEFAULT_NUM_ANCHORS = 100


@dataclass
class NuggetsConfig:
    """How a pool is scored and which part of it is kept (Nuggets, arXiv 2312.10302).

    One selection rule is used: `top_fraction`, `top_k` or `threshold`; with none given, the top
    10% are kept. The golden score of a candidate is the share of anchors whose one-shot log-prob
    (the candidate shown before the anchor) is above their zero-shot log-prob.

    Raises:
        ValueError, TypeError: on a value outside its range or on two rules at once. Checked here,
            not by argparse, because values that come from a YAML file never pass argparse.

    Example:
        >>> NuggetsConfig(top_fraction=0.05).selection_rule
        ('top_fraction', 0.05)
        >>> NuggetsConfig().selection_rule
        ('top_fraction', 0.1)
    """

    anchors: dict[str, str] | str | None = field(
        default=None,
        metadata={
            "help": "Anchor rows: a hub dataset, a local directory, or a .json, .jsonl, .csv or .parquet file. "
            "Several sets, one for each task the model shall be good at, as a mapping of names to such places (on the "
            'command line as JSON, \'{"math": "math.jsonl", "chat": "chat.jsonl"}\'), see `combine_anchor_sets`. '
            "Default: anchors are chosen from the pool (see `num_anchors`)."
        },
    )
    combine_anchor_sets: str = field(
        default="mean",
        metadata={
            "help": "Golden score of a candidate over several anchor sets: the `mean` of its golden scores by set, "
            "each set counting alike whatever its size, or that of its `worst` set.",
            "choices": list(COMBINATIONS),
        },
    )
    num_anchors: int | None = field(
        default=None,
        metadata={
            "help": "How many anchors to choose from the pool when `anchors` is not given. Default: 100, with which "
            "a golden score of 0.8 has a standard error of 0.04; four times as many halve it."
        },
    )
    anchor_selection: str = field(
        default="kmeans",
        metadata={
            "help": "How anchors are chosen from the pool: `kmeans` takes the row nearest to each centroid of the "
            "rows' embeddings (mean of the scorer model's last hidden states), `random` takes rows at random.",
            "choices": list(ANCHOR_SELECTIONS),
        },
    )
    anchor_seed: int = field(default=42, metadata={"help": "Seed of the choice of anchors from the pool."})
    template: str = field(
        default="auto",
        metadata={
            "help": "How rows become prompts. `chat`: the tokenizer's chat template, the candidate is an earlier "
            "user/assistant turn. `plain`: text, pieces tokenized apart and joined by a blank line. `nuggets`: the "
            "reference implementation to the letter (anchors cut at 200 tokens). `auto`: `chat` where the tokenizer "
            "has a chat template and the rows are conversational or have Alpaca columns, else `plain`.",
            "choices": list(TEMPLATES),
        },
    )
    response_field: str | None = field(
        default=None,
        metadata={
            "help": "With `formatting_func`: the column that holds the response. What the function writes alike with "
            "and without it is the prompt, the rest is the completion. Default: the whole text is the completion."
        },
    )
    pool_size: int | None = field(
        default=None,
        metadata={
            "help": "Take this many rows, the first ones, as the pool: all of them go into memory when "
            "`train_dataset` is an `IterableDataset`, which has no selection without it. Default: all rows."
        },
    )
    exclude_self: bool | None = field(
        default=None,
        metadata={
            "help": "Leave out the pair of a candidate and an anchor with the same text. Default: true, but false "
            "for the `nuggets` template, as in the reference."
        },
    )
    schedule: str = field(
        default="auto",
        metadata={
            "help": "Which pairs are scored. `auto`: `race` where the golden set is a ranking's, `exact` where it "
            "depends on all gains (`coverage_weight`, `group_by`, `max_similarity`, several anchor sets). `race`: the "
            "golden set of scoring everything, for fewer pairs: a candidate stops as soon as it cannot be selected "
            "any more, and has a bound instead of a golden score. `exact`: every pair, a golden score for every row.",
            "choices": list(SCHEDULES),
        },
    )
    signal_check: bool | None = field(
        default=None,
        metadata={
            "help": "Before scoring, hold 40 candidates against corrupted copies of themselves (words shuffled, "
            "completion of another row), and warn when the scorer cannot tell them apart. Default: where that is less "
            "than 5%% of the work, in pools of more than 1,600 rows, and not in a choice during training."
        },
    )
    scorer_model: str | None = field(
        default=None,
        metadata={
            "help": "Score with another base model than the tuned one: hub name, local directory, or "
            "`nuggets-demo/model`. Loaded with its own tokenizer and chat template, freed after scoring. A small "
            "model scores much faster at a small loss (SuperNUGGETS, arXiv 2412.09990)."
        },
    )
    scorer_model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Keyword arguments for `AutoModelForCausalLM.from_pretrained` of the scorer model, e.g. "
            '\'{"dtype": "bfloat16"}\' or \'{"quantization_config": {"quant_method": "bitsandbytes", '
            '"load_in_4bit": true}}\'. Default: none.'
        },
    )
    score_dtype: str = field(
        default="auto",
        metadata={
            "help": "Arithmetic of the scoring forward passes; part of the fingerprint of stored scores. `auto`: the "
            "training precision (bfloat16 with `bf16: true`), else the dtype of the weights. bfloat16 changes "
            "1 to 3%% of the wins against float32.",
            "choices": list(SCORE_DTYPES),
        },
    )
    tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Upper bound on the tokens (candidates and anchors, padding included) of one scoring forward pass."
            " Default: 1,024 on CPU; on CUDA what fits 60%% of the free memory, at most 16,384. Halved when memory "
            "runs out. Scores do not depend on it."
        },
    )
    top_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Keep this fraction of the candidates that can be scored, in (0, 1]. Default rule: 0.1. (The "
            "paper's best region, golden score above 0.8, is 10 to 14%% of Alpaca.)"
        },
    )
    top_k: int | None = field(default=None, metadata={"help": "Keep exactly this many candidates."})
    threshold: float | None = field(
        default=None,
        metadata={
            "help": "Keep every candidate with a golden score strictly above this value, in [0, 1). The same value "
            "keeps 1%% of one pool and 33%% of another: prefer a fraction."
        },
    )
    coverage_weight: float | None = field(
        default=None,
        metadata={
            "help": "Choose rows that help all anchors between them, by this weight in (0, 1] against their golden "
            "scores; the set is greedy, with a bound (coverage.py). Default: a ranking by golden score, whose best "
            "rows may all help the same anchors."
        },
    )
    group_by: str | None = field(
        default=None,
        metadata={"help": "Column of the pool, such as its source, whose values get quotas of the golden set."},
    )
    group_quota: str = field(
        default="proportional",
        metadata={
            "help": "With `group_by`: each group's share of the golden set is its share of the candidates "
            "(`proportional`), or the same for all (`equal`, what a group cannot fill goes to the others).",
            "choices": list(GROUP_QUOTAS),
        },
    )
    max_similarity: float | None = field(
        default=None,
        metadata={
            "help": "Pass over a candidate whose embedding (mean of the scorer model's last hidden states) has a "
            "cosine above this, in [-1, 1), with one that is in the golden set already. What is a near-duplicate "
            "depends on the model: 0.95 to 0.99. Equal rows always are. Default: no row is passed over."
        },
    )
    match_full_steps: bool = field(
        default=False,
        metadata={
            "help": "Train for the optimizer steps that `num_train_epochs` over the whole pool would take, by more "
            "epochs over the golden set: 619 rows at batch 256 for 3 epochs are 7-9 steps, which hardly move a model. "
            "For a stated number of steps set `max_steps` (SFTConfig), which repeats epochs as well."
        },
    )
    reselect: str = field(
        default="no",
        metadata={
            "help": "Choose the golden set again during training, by scores of the model as it is then: `no`, at the "
            "start of each `epoch`, or every `reselect_steps` optimizer steps (`steps`). It keeps its size and its "
            "anchors; each choice costs another scoring of the pool.",
            "choices": list(RESELECT),
        },
    )
    reselect_steps: int | None = field(
        default=None,
        metadata={"help": 'Optimizer steps between two choices of the golden set with `reselect="steps"`.'},
    )
    score_dir: str | None = field(
        default=None,
        metadata={
            "help": "Directory of the score store and of the results (scores.parquet, anchors.parquet, pairs.parquet),"
            " or a URL that fsspec knows, such as s3://bucket/scores. Default: `<output_dir>/nuggets`. All processes "
            "must share it."
        },
    )

    def __new__(cls, *_: Any, **options: Any) -> NuggetsConfig:
        """Refuse options of earlier versions with the reason, before `__init__` refuses them as unknown."""
        refuse_removed(options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_config(self)

    @property
    def anchor_sets(self) -> dict[str, str] | None:
        """`anchors` by name, a single set under the empty name; None where they are chosen from the pool.

        Raises:
            ValueError: if they are neither a string nor a mapping.
        """
        anchors = self.anchors
        if isinstance(anchors, str) and anchors.lstrip().startswith("{"):  # the command line gives a mapping as JSON
            anchors = json.loads(anchors)
        if anchors is None:
            return None
        if isinstance(anchors, str):
            return {"": anchors}
        if not isinstance(anchors, dict):
            raise ValueError(f"it is of type {type(anchors).__name__}")
        return {"": next(iter(anchors.values()))} if len(anchors) == 1 else dict(anchors)

    @property
    def every_pair_for(self) -> list[str]:
        """Options in force under which a golden set depends on all gains, so that no race can find it."""
        names = [n for n in ("coverage_weight", "group_by", "max_similarity") if getattr(self, n) is not None]
        sets = self.anchor_sets
        return [*names, *(["several anchor sets"] if sets is not None and len(sets) > 1 else [])]

    @property
    def schedule_in_force(self) -> str:
        """`race` or `exact`."""
        return self.schedule if self.schedule != "auto" else "exact" if self.every_pair_for else "race"

    @property
    def scorer_kwargs(self) -> dict[str, Any]:
        """`scorer_model_init_kwargs`, which the command line gives as JSON, as a mapping."""
        kwargs = self.scorer_model_init_kwargs
        return json.loads(kwargs) if isinstance(kwargs, str) else dict(kwargs or {})

    @property
    def selection_rule(self) -> tuple[str, float]:
        """Name and value of the one rule in force."""
        if self.top_k is not None:
            return "top_k", self.top_k
        if self.threshold is not None:
            return "threshold", self.threshold
        return "top_fraction", DEFAULT_TOP_FRACTION if self.top_fraction is None else self.top_fraction
