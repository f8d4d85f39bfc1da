"""What selection changes in a training job: its number of steps, and new choices of the golden set on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from nuggets_trainer.config.checks import check_bool, check_choice, check_int
from nuggets_trainer.config.option_group import OptionGroup

RESELECT = ("no", "epoch", "steps")


@dataclass
class TrainingOptions(OptionGroup):
    """Options that act during training alone."""

    title: ClassVar[str] = "selection during training (`nuggets train`)"

    match_full_steps: bool = field(
        default=False,
        metadata={
            "help": "Train for as many optimizer steps as `num_train_epochs` over the whole pool would take, by more "
            "epochs over the golden set. A small golden set gives few steps, which hardly move a model: 619 rows at "
            "batch 256 for 3 epochs are 7-9. For a stated number of steps set `max_steps` (SFTConfig) instead."
        },
    )
    reselect: str = field(
        default="no",
        metadata={
            "help": "Choose the golden set again during training, by scores of the model as it is then: at the start "
            "of each `epoch`, or every `reselect_steps` optimizer steps (`steps`). The golden set keeps its size and "
            "its anchors; each choice costs another scoring of the pool.",
            "choices": list(RESELECT),
        },
    )
    reselect_steps: int | None = field(
        default=None,
        metadata={"help": "Optimizer steps between two choices of the golden set, with `reselect: steps`."},
    )

    def check(self) -> None:
        """Refuse values outside their range, and steps without their number."""
        check_bool("match_full_steps", self.match_full_steps, optional=False)
        check_choice("reselect", self.reselect, RESELECT)
        if self.reselect_steps is not None:
            check_int("reselect_steps", self.reselect_steps, minimum=1)
        if (self.reselect == "steps") != (self.reselect_steps is not None):
            raise ValueError(
                f'`reselect="steps"` and `reselect_steps` belong together, got `reselect={self.reselect!r}` and '
                f"`reselect_steps={self.reselect_steps}`. Set both or neither."
            )
