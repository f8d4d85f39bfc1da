"""A scorer model other than the model that is tuned."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nuggets_trainer.config.checks import check_string
from nuggets_trainer.config.option_group import OptionGroup

# Parts of a model's name that say it was tuned on instructions.
TUNED = re.compile(r"(?i)(?:^|[-_/.])(instruct|chat|it|sft|dpo|rlhf|assistant)(?:[-_.]?v?\d[\w.]*)?(?=$|[-_/.])")


def hint_on_tuned_scorer(model_name: str) -> str | None:
    """Point to the base model, if the name of a scorer model says that it was tuned on instructions.

    Measured with one model (docs/log/signal_check.md): Gemma 3 270M ranks 66% of the pairs of a clean and a spoilt row
    right, and 52%, which is chance, after it was tuned on 384 rows like the anchors. Few examples help it then.

    Args:
        model_name: name or path of the model that scores.

    Example:
        >>> hint_on_tuned_scorer("Qwen/Qwen2.5-0.5B") is None
        True
        >>> hint_on_tuned_scorer("google/gemma-3-270m-it")[:43]
        'google/gemma-3-270m-it is instruction-tuned'
    """
    parts = [part for part in model_name.replace("\\", "/").split("/") if part]
    if not parts or not TUNED.search(parts[-1]):
        return None
    return (
        f"{'/'.join(parts[-2:])} is instruction-tuned by its name. Tuning can make a scorer worse: Gemma 3 270M "
        "ranked 66% of the pairs of a clean and a spoilt row right, and 52%, which is chance, after it was tuned on "
        "rows like the anchors. To compare, name its base model as `scorer_model`"
    )


@dataclass
class ScorerModelOptions(OptionGroup):
    """Another base model that scores in place of the tuned one."""

    title: ClassVar[str] = "another model for scoring"

    scorer_model: str | None = field(
        default=None,
        metadata={
            "help": "Base model that scores in place of the tuned one: a hub name, a local directory, or "
            "`nuggets-demo/model`. It is loaded with its own tokenizer and chat template, and freed after scoring. A "
            "small model scores much faster at a small loss (SuperNUGGETS, arXiv 2412.09990)."
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

    @property
    def scorer_kwargs(self) -> dict[str, Any]:
        """`scorer_model_init_kwargs` as a mapping; the command line gives them as JSON."""
        kwargs = self.scorer_model_init_kwargs
        return json.loads(kwargs) if isinstance(kwargs, str) else dict(kwargs or {})

    def check(self) -> None:
        """Refuse keyword arguments that are not a mapping, or that have no model."""
        check_string("scorer_model", self.scorer_model)
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
            raise ValueError(
                "`scorer_model_init_kwargs` needs `scorer_model`, which is not given. Name the scorer model too."
            )
