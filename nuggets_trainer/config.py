"""`NuggetsConfig`: every choice that selection leaves to the user. Knows no torch and no files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from nuggets_trainer.checks import check_bool, check_choice, check_int, check_number

TEMPLATES = ("auto", "chat", "plain", "nuggets")
ANCHOR_SELECTIONS = ("kmeans", "random")
SCHEDULES = ("race", "exact")
RESELECT = ("no", "epoch", "steps")
SCORE_DTYPES = ("auto", "float32", "bfloat16", "float16")
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

    anchors: str | None = field(
        default=None,
        metadata={
            "help": "Anchor rows: a hub dataset, a local directory, or a .json, .jsonl, .csv or .parquet file. "
            "Default: anchors are chosen from the pool (see `num_anchors`)."
        },
    )
    num_anchors: int | None = field(
        default=None,
        metadata={
            "help": "How many anchors to choose from the pool when `anchors` is not given. Default: 100. The "
            "standard error of a golden score p is sqrt(p * (1 - p) / num_anchors)."
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
        default="race",
        metadata={
            "help": "Which pairs are scored. `race`: the golden set of scoring everything, for fewer pairs: a "
            "candidate stops as soon as it cannot be selected any more, and has a bound instead of a golden score. "
            "`exact`: every pair, a golden score for every row.",
            "choices": list(SCHEDULES),
        },
    )
    race_confidence: float | None = field(
        default=None,
        metadata={
            "help": "Let the race also stop candidates that are unlikely to be selected: each row of the exact golden "
            "set is lost with probability at most 1 - race_confidence (over the random order of its anchors, whatever "
            "model and data). Needs a random order of anchors, so that it saves only where the golden score at the "
            "cut is low (below about 0.5), and costs more than the exact race where it is high: try it on your scores "
            "with `recipes/race.py --confidence`. Kept rows are scored on all anchors. Default: the golden set is "
            "exact."
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
            "training precision (bfloat16 with `bf16: true`), else the dtype of the weights. bfloat16 changes about "
            "1%% of the wins against float32.",
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
    flush_seconds: float = field(
        default=30.0,
        metadata={
            "help": "Scored pairs are written to the store at least this often, in seconds (and every "
            "`flush_candidates`): what a killed job can lose."
        },
    )
    flush_candidates: int = field(
        default=1000,
        metadata={"help": "Scored pairs are written to the store at least every this many candidates."},
    )
    top_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Keep this fraction of the candidates that can be scored, in (0, 1]. Default rule: 0.1. (The "
            "paper's best region, golden score above 0.8, is 14%% of Alpaca.)"
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

    def __post_init__(self) -> None:
        check_choice("template", self.template, TEMPLATES)
        check_choice("anchor_selection", self.anchor_selection, ANCHOR_SELECTIONS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("score_dtype", self.score_dtype, SCORE_DTYPES)
        check_choice("reselect", self.reselect, RESELECT)
        for name in ("exclude_self", "match_full_steps", "signal_check"):
            check_bool(name, getattr(self, name), optional=name != "match_full_steps")
        check_int("anchor_seed", self.anchor_seed, minimum=0)
        check_int("flush_candidates", self.flush_candidates, minimum=1)
        check_number("flush_seconds", self.flush_seconds)
        if not self.flush_seconds >= 0:
            raise ValueError(f"`flush_seconds` must be 0 or more, got {self.flush_seconds}.")
        for name in ("num_anchors", "pool_size", "reselect_steps", "tokens_per_batch"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), minimum=1)
        for name in ("anchors", "response_field", "score_dir", "scorer_model"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise TypeError(f"`{name}` must be a non-empty string or unset, got {value!r}.")
        self._check_race_confidence()
        self._check_scorer_model()
        self._check_reselect()
        if self.anchors is not None and self.num_anchors is not None:
            raise ValueError(
                f"`num_anchors={self.num_anchors}` chooses anchors from the pool, but `anchors={self.anchors!r}` "
                "gives them. Drop one of the two: given anchors are all used."
            )
        self._check_selection_rule()

    def _check_race_confidence(self) -> None:
        if self.race_confidence is None:
            return
        check_number("race_confidence", self.race_confidence)
        if not 0 < self.race_confidence < 1:
            raise ValueError(
                f"`race_confidence` must be in (0, 1), got {self.race_confidence}. Leave it out for the exact golden "
                "set."
            )
        if self.schedule != "race":
            raise ValueError(f"`race_confidence` is of the race, but `schedule={self.schedule}`. Drop one of the two.")

    @property
    def scorer_kwargs(self) -> dict[str, Any]:
        """`scorer_model_init_kwargs`, which the command line gives as JSON, as a mapping."""
        kwargs = self.scorer_model_init_kwargs
        return json.loads(kwargs) if isinstance(kwargs, str) else dict(kwargs or {})

    def _check_scorer_model(self) -> None:
        if self.scorer_model_init_kwargs is None:
            return
        try:
            self.scorer_kwargs.keys()
        except (ValueError, TypeError, AttributeError) as error:
            raise TypeError(
                "`scorer_model_init_kwargs` must be a mapping or a JSON object, got "
                f"{self.scorer_model_init_kwargs!r}."
            ) from error
        if self.scorer_model is None:
            raise ValueError("`scorer_model_init_kwargs` is given without `scorer_model`. Name the scorer model too.")

    def _check_reselect(self) -> None:
        if (self.reselect == "steps") != (self.reselect_steps is not None):
            raise ValueError(
                f'`reselect="steps"` and `reselect_steps` belong together, got `reselect={self.reselect!r}` and '
                f"`reselect_steps={self.reselect_steps}`. Set both or neither."
            )
        if self.reselect != "no" and self.scorer_model is not None:
            raise ValueError(
                "`reselect` scores with the model that is being tuned, but `scorer_model` scores with another one, "
                "whose scores never change. Drop one of the two."
            )

    def _check_selection_rule(self) -> None:
        rules = {n: v for n in ("top_fraction", "top_k", "threshold") if (v := getattr(self, n)) is not None}
        if len(rules) > 1:
            given = " and ".join(f"`{name}={value}`" for name, value in rules.items())
            raise ValueError(f"Expected one selection rule, got {given}. Keep one and drop the others.")
        if self.top_fraction is not None:
            check_number("top_fraction", self.top_fraction)
            if not 0 < self.top_fraction <= 1:
                raise ValueError(
                    f"`top_fraction` must be in (0, 1], got {self.top_fraction}. Write 0.1 for 10%; use `top_k` for a "
                    "number of rows."
                )
        if self.top_k is not None:
            check_int("top_k", self.top_k, minimum=1)
        if self.threshold is not None:
            check_number("threshold", self.threshold)
            if not 0 <= self.threshold < 1:
                raise ValueError(
                    f"`threshold` must be in [0, 1), got {self.threshold}: a golden score is a share of anchors, and "
                    "the rule keeps scores strictly above it."
                )

    @property
    def selection_rule(self) -> tuple[str, float]:
        """Name and value of the one rule in force."""
        if self.top_k is not None:
            return "top_k", self.top_k
        if self.threshold is not None:
            return "threshold", self.threshold
        return "top_fraction", DEFAULT_TOP_FRACTION if self.top_fraction is None else self.top_fraction
