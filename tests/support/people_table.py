"""What becomes of people's files, as a table: `python -m tests.support.people_table`."""

from __future__ import annotations

import contextlib
import copy
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from nuggets_trainer import NuggetsConfig, SelectedSFTTrainer, inspect_pool, load_rows
from nuggets_trainer.demo import demo_path
from nuggets_trainer.inspection.inspection import Inspection
from nuggets_trainer.inspection.render import MERGED_SEAM
from nuggets_trainer.pipeline.rows import read_pool
from nuggets_trainer.wording import counted
from tests.support.people_files import ALPACA, FILES, PeopleFile
from tests.support.training import arguments
from tests.support.trl_templates import SOURCES

SHOWN = 44  # characters of a text


@dataclass(frozen=True)
class Outcome:
    """What an inspection says of a file, and what TRL makes of its rows.

    Attributes:
        found: the inspection; None if the file cannot be read.
        prepared: usable rows as the trainer reads them, in pool order.
        error: what is said if the file cannot be read, or if no row can be scored.
    """

    found: Inspection | None
    prepared: Dataset | None
    error: str = ""


@functools.cache
def tokenizer_with(template: str | None) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(demo_path("model"))
    tokenizer.chat_template = tokenizer.chat_template if template is None else SOURCES[template]
    return tokenizer


@functools.cache
def trainer_with(template: str | None) -> SelectedSFTTrainer:
    """A trainer that prepares rows; it is never trained."""
    sizes = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=1, **sizes))
    rows = Dataset.from_list(ALPACA)
    with tempfile.TemporaryDirectory() as output_dir:
        return SelectedSFTTrainer(
            model,
            arguments(output_dir, max_length=None),
            train_dataset=rows,
            processing_class=copy.deepcopy(tokenizer_with(template)),
            nuggets_config=NuggetsConfig(top_k=1),
            anchor_dataset=rows,
        )


def look_at(file: PeopleFile, directory: Path) -> Outcome:
    """Write a file, inspect it as `nuggets inspect` does, and prepare its rows as training does."""
    path, config = directory / file.name, NuggetsConfig(**file.options)
    file.write(path)
    try:
        rows = load_rows(str(path), **file.load)
    except ValueError as error:
        return Outcome(None, None, str(error).replace(f"{directory}/", ""))
    found = inspect_pool(tokenizer_with(file.template), rows, config=config, name=file.name, num_rows=99)
    if found.problem is not None:
        return Outcome(found, None, found.problem)
    pool = read_pool(rows, config)
    prepared = trainer_with(file.template)._prepare_rows(pool.dataset.select(pool.usable_indices()), packing=None)
    return Outcome(found, prepared)


def trained_on(prepared: dict[str, Any]) -> list[int]:
    """Positions that TRL puts loss on; the first token has no context, and its loss is left out."""
    mask = prepared.get("completion_mask") or [1] * len(prepared["input_ids"])
    if prepared.get("labels") is not None:
        mask = [label != -100 for label in prepared["labels"]]
    return [position for position, has_loss in enumerate(mask) if has_loss and position > 0]


def line(file: PeopleFile, outcome: Outcome) -> str:
    """Write one line of the table."""
    cells = [f"`{file.name}`: {file.what}{_options(file)}"]
    found = outcome.found
    if outcome.error:
        said = outcome.error
        if found is not None:  # the columns and the known formats are listed before
            said = said.rpartition("). ")[2]
        cells += [_cell(f"refused: {said}"), "", ""]
        return f"| {' | '.join(cells)} |"
    assert found is not None and found.format is not None and found.template is not None
    said = f"{found.format.name}, {found.template.name}; {counted(found.num_rows, 'row')}"
    for fact in found.dropped:
        said += f", {fact.num_rows} dropped (`{fact.reason}`)"
    if found.remarks.get(MERGED_SEAM):
        said += f", {found.remarks[MERGED_SEAM]} with other tokens in training"
    view = next(view for view in found.rows if view.dropped is None)
    decode = tokenizer_with(file.template).decode
    texts = []
    for positions in (view.scored, view.trained_on):
        texts.append(f"`{_short(decode([view.token_ids[position] for position in positions]))}`")
    return f"| {' | '.join([*cells, said, *texts])} |"


def _options(file: PeopleFile) -> str:
    words = []
    if "columns" in file.options:
        words.append(f"--columns {file.options['columns']}")
    if "pool_size" in file.options:
        words.append(f"--pool_size {file.options['pool_size']}")
    if file.load.get("streaming"):
        words.insert(0, "--dataset_streaming true")
    return f" (`{' '.join(words)}`)" if words else ""


def _short(text: str) -> str:
    text = text.replace("\n", "⏎").replace("|", "\\|").replace("`", "'")
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def table() -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    yield "| file | `nuggets inspect` says | scored of its first row | trained on |"
    yield "| --- | --- | --- | --- |"
    for file in FILES:
        with tempfile.TemporaryDirectory() as directory:
            yield line(file, look_at(file, Path(directory)))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        print("\n".join(table()))
