"""`Inspection`: what was found out about a pool, as text, as HTML and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nuggets_trainer.inspection.facts import PoolFacts
from nuggets_trainer.inspection.page import as_html
from nuggets_trainer.inspection.text import as_text


@dataclass(frozen=True, repr=False)
class Inspection(PoolFacts):
    """What `inspect_pool` has found: `print` shows it as text, a notebook in colours.

    The attributes are those of `PoolFacts`.
    """

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON takes it."""
        return asdict(self)
