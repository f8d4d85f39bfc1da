"""What this machine knows of repositories on the hub without asking it: names of cached models, fields of cards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# A directory in the hub's cache: models--Qwen--Qwen3-0.6B/snapshots/<commit>
SNAPSHOT = re.compile(r"models--([^/\\]+)[/\\]snapshots[/\\][^/\\]+[/\\]?$")
NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def hub_model_name(model: str) -> str | None:
    """Return the name of a model on the hub; None for a local directory that is not in the hub's cache.

    Example:
        >>> hub_model_name("/home/me/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B/snapshots/c1899de")
        'Qwen/Qwen3-0.6B'
        >>> hub_model_name("/home/me/models/mine") is None
        True
    """
    cached = SNAPSHOT.search(model)
    if cached is not None:
        return cached[1].replace("--", "/")
    if NAME.fullmatch(model) is None or Path(model).exists():
        return None
    return model


def card_fields(name: str, repo_type: str = "model", revision: str | None = None) -> dict[str, Any]:
    """Read the fields of a repository's card, if the card is on this machine; an empty dict if it is not.

    Args:
        name: name on the hub, or a local directory.
        repo_type: `model` or `dataset`.
        revision: commit; None takes the one that the main branch had when it was cached.
    """
    import yaml
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.repocard import metadata_load

    card: Any = Path(name) / "README.md"
    try:
        if not card.is_file():
            card = try_to_load_from_cache(name, "README.md", revision=revision, repo_type=repo_type)
        if not isinstance(card, (str, Path)):  # it is not known, or it is known that there is none
            return {}
        return metadata_load(card) or {}
    except (OSError, ValueError, HFValidationError, yaml.YAMLError):  # no card that can be read tells nothing
        return {}


def license_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what a card's fields say of the license; one that is not on the hub's list has a name and a link."""
    names = ("license", "license_name", "license_link")
    return {name: fields[name] for name in names if fields.get(name) is not None}
