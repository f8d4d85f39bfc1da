"""The golden set inside a Trainer: SelectedSFTTrainer, the callback, the main job.

Does not know the command line.
"""

import warnings

# transformers 5.23 has renamed two names that TRL 1.16 and PEFT 0.21 still use, so that every training job warned of
# what its user had not written. These filters stand behind all others: the user's own, `-W` and pytest's come first.
for _name in ("gradient_checkpointing", "is_gradient_checkpointing"):
    warnings.filterwarnings("ignore", f"`{_name}` is deprecated", FutureWarning, append=True)
