"""`Inspection`: the facts about a pool as text, HTML and JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nuggets_trainer.inspection.facts import PoolFacts
from nuggets_trainer.inspection.page import as_html
from nuggets_trainer.inspection.text import as_text


@dataclass(frozen=True, repr=False)
class Inspection(PoolFacts):
    """Result of `inspect_pool`: `print` shows it as text, a notebook shows it in colours.

    The attributes are those of `PoolFacts`.
    """

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as values for JSON."""
        return asdict(self)
