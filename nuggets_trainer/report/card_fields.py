"""The fields at the head of a card (YAML), by which the hub finds it: tags, sources, license, size, language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nuggets_trainer.store.hub_cache import card_fields, hub_model_name, license_fields

TAGS = ("nuggets", "data-selection")
CONFIGURATIONS = ("golden_set", "scores", "anchors")
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


def dataset_head(title: str, num_rows: int, sources: Mapping[str, str]) -> str:
    """Write the head of a dataset card, between lines of dashes.

    Args:
        title: name of the dataset for people.
        num_rows: number of rows of the golden set.
        sources: datasets on the hub that the rows come from, each with its commit; empty if they are not known.
    """
    from huggingface_hub import DatasetCardData

    cards = [card_fields(name, "dataset", revision) for name, revision in sources.items()]
    configs: list[dict[str, Any]] = []
    for name in CONFIGURATIONS:
        configs.append({"config_name": name, "data_files": f"{name}/train.parquet"})
    configs[0]["default"] = True
    data = DatasetCardData(
        pretty_name=title,
        language=_languages(cards),
        **_common_license(cards),
        size_categories=[size_category(num_rows)],
        source_datasets=list(sources) or None,
        task_categories=["text-generation"],
        tags=list(TAGS),
        configs=configs,
    )
    return f"---\n{data.to_yaml()}\n---"


def size_category(num_rows: int) -> str:
    """Return the hub's name for a number of rows.

    Example:
        >>> size_category(999), size_category(1000)
        ('n<1K', '1K<n<10K')
    """
    for place, name in enumerate(SIZES):
        if num_rows < 1000 * 10**place:
            return name
    return "other"


def _languages(cards: Sequence[dict[str, Any]]) -> list[str] | None:
    """Return the languages of all sources; None if one does not tell its own."""
    found: list[str] = []
    for fields in cards:
        languages = fields.get("language")
        if not languages:
            return None
        if isinstance(languages, str):
            languages = [languages]
        found += languages
    return sorted(set(found)) or None


def _common_license(cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the license that all sources have; nothing if one has another or does not tell."""
    licenses = [license_fields(fields) for fields in cards]
    if not licenses or any(other != licenses[0] for other in licenses):
        return {}
    return licenses[0]


def with_fields(card: str, base: str, sources: Sequence[str], saved_as: str) -> str:
    """Complete the head of a model card, and put names of the hub in place of local paths.

    TRL writes `None` for a base model that is a directory, and PEFT writes the path of the directory.

    Args:
        card: the card as a trainer or PEFT has written it.
        base: name or directory of the model that was tuned.
        sources: datasets on the hub that the rows come from.
        saved_as: name to load the tuned model by, where the card has none.

    Returns:
        The card; unchanged if its head cannot be read.
    """
    import yaml
    from huggingface_hub import ModelCard

    try:
        parsed = ModelCard(card, ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError):
        return card
    name, data = hub_model_name(base), parsed.data
    data["base_model"] = name
    data.pop("licence")  # TRL's spelling, with the value `license`
    if data.get("license") is None:
        for field, value in license_fields(card_fields(name or base)).items():
            data[field] = value
    data["tags"] = _tags(data.get("tags", []), base, name)
    if sources:
        data["datasets"] = list(sources)
    text = parsed.text
    shown = "a model that has no name"
    if name is not None:
        shown = f"[{name}](https://huggingface.co/{name})"
    elif base:
        shown = f"`{Path(base).name}`"
    for written in ("None", base):
        text = text.replace(f"[{written}](https://huggingface.co/{written})", shown)
    parsed.text = text.replace('model="None"', f'model="{saved_as}"')
    return str(parsed)


def _tags(tags: Sequence[str], base: str, name: str | None) -> list[str]:
    """Add the package's tags; put the name of the base model into PEFT's tag, or leave a tag with a path out."""
    found = dict.fromkeys(tags)
    for tag in tags:
        if tag.endswith(f":{base}") and name != base:
            del found[tag]
            if name is not None:
                found[f"{tag.removesuffix(base)}{name}"] = None
    return list(dict.fromkeys([*found, *TAGS]))
