"""What the user chooses: options in groups, each beside its checks.

Does not know numpy, torch, models or files.
"""

from nuggets_trainer.config.nuggets_config import NuggetsConfig

__all__ = ["NuggetsConfig"]
