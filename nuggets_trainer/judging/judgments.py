"""What the judgments of both benchmarks share: names of their files, and the sentence on those that cannot be read."""

from __future__ import annotations

import re

from nuggets_trainer.wording import counted


def file_name(judge_model: str) -> str:
    """Turn the name of a judge, which may be a path, into a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", judge_model).strip("_")


def trial_name(kind: str, num_questions: int | None) -> str:
    """Return the name of a file of judgments; a trial with fewer questions has its own file."""
    return kind if num_questions is None else f"{kind}_trial{num_questions}"


def describe_unparsable(unparsable: int, judgments: int, rejected: int = 0) -> str:
    """Return a line with the number of judgments that could not be read."""
    note = f", {rejected} of them because the endpoint rejected the request" if rejected else ""
    return f"  {unparsable} of {counted(judgments, 'judgment')} could not be read{note}; no mean includes them."
