"""Selected or attached, raw or tokenized: what is scored is what `SFTTrainer` trains on."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments
from trl import SFTTrainer

from nuggets_trainer import NuggetsConfig, NuggetsDataCallback, SelectedSFTTrainer
from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.prompts.trl_columns import in_trl_columns
from nuggets_trainer.training.attached_pool import attached_pool, pool_as_tokenized
from tests.support.messages import spoken
from tests.support.row_formats import as_messages, as_sharegpt, as_text, as_text_parts
from tests.support.training import POOL, arguments
from tests.support.trl_templates import SOURCES

PAIRS = [(row["instruction"], row["output"].strip()) for row in POOL[:12]]


def rows_of(as_row, **columns) -> Dataset:
    return Dataset.from_list([{**as_row(pair), **columns} for pair in PAIRS])


def as_turns(pair) -> dict[str, object]:
    turns = [*as_messages(("Say?", "red cat"))["messages"], *as_messages(pair)["messages"]]
    return {"prompt": turns[:-1], "completion": turns[-1:]}


def ending_in_eos(pair) -> dict[str, str]:
    return {"prompt": pair[0] + "\n", "completion": pair[1] + "</s>"}


def as_content(pair) -> dict[str, str]:
    return {"text": "meta", "content": as_text(pair)["text"]}


def written(row: dict[str, str]) -> str:
    return f"Say {row['instruction']} = {row['output'].strip()}"


def pairs_in(output_dir) -> tuple[np.ndarray, np.ndarray]:
    one_shot = pq.read_table(output_dir / "nuggets" / "pairs.parquet")["one_shot"].to_pylist()
    zero_shot = pq.read_table(output_dir / "nuggets" / "anchors.parquet")["zero_shot"].to_pylist()
    return np.array(one_shot, dtype=float), np.array(zero_shot, dtype=float)


@pytest.mark.parametrize(
    ("as_row", "options"),
    [
        (as_text_parts, {}),
        (as_text, {}),
        (ending_in_eos, {}),
        (as_content, {"dataset_text_field": "content"}),
        (as_messages, {}),
        (as_sharegpt, {}),
        (as_turns, {"assistant_only_loss": True}),
        (as_turns, {"assistant_only_loss": True, "completion_only_loss": False}),
    ],
    ids=[
        "prompt and completion",
        "text",
        "ending in EOS",
        "another text field",
        "messages",
        "sharegpt",
        "assistant in the completion",
        "assistant everywhere",
    ],
)
def test_attached_and_selected_score_the_same_pairs(as_row, options, model_dir, tmp_path):
    """The rows that SFTTrainer keeps end in EOS: it was shown, and no row was recognised as its own anchor."""
    rows = rows_of(as_row)
    config = NuggetsConfig(top_k=4, schedule="exact", exclude_self=True)
    selected = SelectedSFTTrainer(
        model_dir,
        arguments(tmp_path / "selected", **options),
        train_dataset=rows,
        anchor_dataset=rows.select(range(3)),
        nuggets_config=config,
    )
    golden = selected.select()
    attached = SFTTrainer(model_dir, arguments(tmp_path / "attached", **options), train_dataset=rows)
    attached_labels = attached.train_dataset["labels"][:]
    nuggets = NuggetsDataCallback(config, anchor_dataset=rows.select(range(3)))
    nuggets.attach(attached)
    np.testing.assert_array_equal(nuggets.select().indices, golden.indices)
    for found, expected in zip(pairs_in(tmp_path / "attached"), pairs_in(tmp_path / "selected"), strict=True):
        np.testing.assert_array_equal(found, expected)
    own = np.isnan(pairs_in(tmp_path / "attached")[0])
    assert own[:3].tolist() == np.eye(3, dtype=bool).tolist() and own.sum() == 3
    assert selected.train_dataset["input_ids"][:] == attached.train_dataset["input_ids"][:]
    if as_row in (as_turns, as_messages):  # of messages all is trained on, and the last one scored
        trained = np.array([sum(label != -100 for label in row) for row in attached_labels[:3]])
        scored = selected.scores.anchors.num_tokens
        assert (scored == trained).all() == (as_row is as_turns)


@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated")  # works until TRL 2
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.parametrize("as_row", [as_text_parts, as_text, as_messages])
def test_truncated_rows_are_recognised(as_row, mode, model_dir, tmp_path):
    rows = rows_of(as_row)
    args = arguments(tmp_path, max_length=16, truncation_mode=mode)
    trainer = SFTTrainer(model_dir, args, train_dataset=rows)
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    assert max(lengths) == 16
    pool = attached_pool(trainer)
    assert pool.format != "tokenized"
    keys = pool.read_keys()[0]
    assert keys  # TRL drops rows whose completion is cut away
    assert set(keys) <= set(anchors_like(rows, pool).read_keys()[0])


def test_what_a_formatting_func_wrote_is_read(model_dir, tmp_path):
    """The Alpaca columns beside it were scored, and as a chat."""
    rows = Dataset.from_list(POOL)
    pool = attached_pool(SFTTrainer(model_dir, arguments(tmp_path), train_dataset=rows, formatting_func=written))
    assert (pool.format, pool[0].completion) == ("text", written(POOL[0]))


def with_ids(model_dir, as_row, text_of, **columns) -> Dataset:
    """Rows with raw columns beside token ids that the user made of some text."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    rows = [{**as_row(pair), "input_ids": tokenizer(text_of(pair))["input_ids"], **columns} for pair in PAIRS]
    return Dataset.from_list([{**row, "labels": row["input_ids"]} for row in rows])


def unrelated(pair) -> str:
    return f"Q {pair[0]} A {pair[1]}"


@pytest.mark.parametrize("as_row", [as_text_parts, as_text, as_messages, as_sharegpt])
def test_columns_that_were_not_tokenized_are_ignored(as_row, model_dir, tmp_path):
    """TRL trains on `input_ids` and looks at nothing else; the columns beside them were scored."""
    rows = with_ids(model_dir, as_row, unrelated)
    config = NuggetsConfig(top_k=4, num_anchors=3, schedule="exact")
    selected = SelectedSFTTrainer(model_dir, arguments(tmp_path / "s"), train_dataset=rows, nuggets_config=config)
    selected.select()
    attached = SFTTrainer(model_dir, arguments(tmp_path / "a"), train_dataset=rows)
    nuggets = NuggetsDataCallback(config)
    nuggets.attach(attached)
    nuggets.select()
    bare = rows.select_columns(["input_ids", "labels"])
    expected = SelectedSFTTrainer(model_dir, arguments(tmp_path / "b"), train_dataset=bare, nuggets_config=config)
    expected.select()
    for name in ("s", "a"):
        np.testing.assert_array_equal(pairs_in(tmp_path / name)[0], pairs_in(tmp_path / "b")[0])


def test_text_anchors_of_a_pool_of_ids_are_refused(model_dir, tmp_path):
    rows = with_ids(model_dir, as_messages, unrelated)
    trainer = SFTTrainer(model_dir, arguments(tmp_path), train_dataset=rows)
    nuggets = NuggetsDataCallback(NuggetsConfig(top_k=4), anchor_dataset=rows_of(as_messages))
    with pytest.raises(
        ValueError, match=r"both be tokenized already.*other columns \(format 'messages'\) are not what was tokenized"
    ):
        nuggets.attach(trainer)


def plain_trainer(model_dir, output_dir, rows) -> Trainer:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.pad_token = tokenizer.eos_token
    return Trainer(
        AutoModelForCausalLM.from_pretrained(model_dir),
        TrainingArguments(str(output_dir), num_train_epochs=1, report_to="none", use_cpu=True),
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )


@pytest.mark.parametrize("padding", ["no padding", "left", "right"])
@pytest.mark.parametrize("eos", ["", "</s>"])
def test_a_plain_trainer_reads_the_tokenized_columns(eos, padding, model_dir, tmp_path):
    rows = with_ids(model_dir, as_text, lambda pair: as_text(pair)["text"] + eos)

    def padded(row):
        missing = 60 - len(row["input_ids"])
        left, right = (missing, 0) if padding == "left" else (0, missing)
        ids, labels = ([fill] * left + row[n] + [fill] * right for n, fill in (("input_ids", 2), ("labels", -100)))
        mask = [0] * left + [1] * len(row["input_ids"]) + [0] * right
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    rows = rows if padding == "no padding" else rows.map(padded)
    pool = attached_pool(plain_trainer(model_dir, tmp_path, rows))
    assert (pool.format, pool[0].completion) == ("text", as_text(PAIRS[0])["text"])
    other = with_ids(model_dir, as_text, unrelated)
    assert attached_pool(plain_trainer(model_dir, tmp_path, other)).format == "tokenized"


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_scores(side, model_dir, tmp_path):
    """Pads stood between candidate and anchor."""
    rows = with_ids(model_dir, as_text, unrelated).select_columns(["input_ids", "labels"])

    def padded(row):
        missing = 60 - len(row["input_ids"])
        fill = {"input_ids": 2, "labels": -100, "attention_mask": 0}
        row = {**row, "attention_mask": [1] * len(row["input_ids"])}
        return {n: [fill[n]] * missing + v if side == "left" else v + [fill[n]] * missing for n, v in row.items()}

    for name, dataset in (("bare", rows), ("padded", rows.map(padded))):
        nuggets = NuggetsDataCallback(NuggetsConfig(top_k=4, num_anchors=3, schedule="exact"))
        nuggets.attach(plain_trainer(model_dir, tmp_path / name, dataset))
        nuggets.select()
    np.testing.assert_array_equal(pairs_in(tmp_path / "padded")[0], pairs_in(tmp_path / "bare")[0])


def test_columns_that_cannot_be_rendered_are_not_read(model_dir):
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    for columns in ({"text": " "}, {"conversations": as_messages(PAIRS[0])["messages"]}):
        pool = pool_as_tokenized(Dataset.from_list([{**columns, "input_ids": [1, 5, 6]}]), tokenizer)
        assert pool.format == "tokenized" and "not what was tokenized" in pool.why_tokenized
    pool = pool_as_tokenized(Dataset.from_list([{"text": "red"}]), tokenizer)
    assert (pool.format, pool.why_tokenized) == ("text", "")


def test_roles_that_trl_keeps_are_warned_of(model_dir, tmp_path, caplog):
    """The callback comes after TRL, which renders `human` and `gpt` as they are."""
    rows = Dataset.from_list([{"conversations": [spoken("human", "a"), spoken("gpt", "b")]}] * 4)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }}{{ eos_token }}{% endfor %}"

    def pool_of(dataset):
        args = arguments(tmp_path, save_strategy="no")
        return attached_pool(SFTTrainer(model_dir, args, train_dataset=dataset, processing_class=tokenizer))

    assert pool_of(rows).format == "tokenized" and "`train_dataset` has ShareGPT's roles" in caplog.text
    caplog.clear()
    renamed = in_trl_columns(rows, "chat")  # as the message says
    assert pool_of(renamed).format == "messages" and "ShareGPT" not in caplog.text


def test_contents_that_are_not_shown_are_warned_of(model_dir, tmp_path, caplog):
    rows = Dataset.from_list([{"messages": [text_part(turn) for turn in as_messages(PAIRS[0])["messages"]]}] * 2)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.chat_template = SOURCES["llama3"]  # writes a list as Python prints it
    args = arguments(tmp_path, save_strategy="no")

    def pool_of(dataset):
        return attached_pool(SFTTrainer(model_dir, args, train_dataset=dataset, processing_class=tokenizer))

    assert pool_of(rows).format == "tokenized" and "a form that the chat template does not show" in caplog.text
    caplog.clear()
    converted = in_trl_columns(rows, "chat", tokenizer=tokenizer)  # as the message says
    assert pool_of(converted).format == "messages" and caplog.text == ""


def text_part(turn):
    return {**turn, "content": [{"type": "text", "text": turn["content"]}]}
