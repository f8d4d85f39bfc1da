"""The method on arrays: golden scores, gains, the golden set.

Does not know models, text or files; numpy, scipy and scikit-learn are enough.
"""

from nuggets_trainer.golden.scores import GoldenScores, golden_scores
from nuggets_trainer.golden.selection import GoldenSet, select_golden_set

__all__ = ["GoldenScores", "GoldenSet", "golden_scores", "select_golden_set"]
