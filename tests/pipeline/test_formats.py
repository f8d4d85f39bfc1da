"""A pool of every row format of TRL's SFTTrainer, scored end to end, against text that is written by hand here."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import trl
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from nuggets_trainer import NuggetsConfig, Pool, score_pool
from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.data.formats import FORMATS
from nuggets_trainer.prompts.templates import make_template
from tests.support import oracle
from tests.support.messages import spoken
from tests.support.models import tiny_model
from tests.support.row_formats import as_messages, as_sharegpt, as_text, as_text_parts, messages
from tests.support.rows import alpaca_rows

TOLERANCE = 1e-5  # what float32 attention leaves
CANDIDATES, ANCHORS = (
    [(f"{row['instruction']}", row["output"].strip()) for row in alpaca_rows(n, seed)]
    for n, seed in ((7, 21), (4, 22))
)
TURN = ("red cat?", "blue")  # an earlier one
# Tools and an option, written behind the system message by a template that is the demo's but for that.
TOOLS_AND_STYLE = "{{ bos_token }}{{ style }}{% for t in tools or [] %}<|system|> {{ t.name }}{% endfor %}"

Pieces = list[tuple["str | list[int]", bool]]  # text, or token ids, and whether it is scored


# ---------------------------------------------------------------- written by hand


def chat(*turns: tuple[str, str], scored: tuple[bool, ...] = (), head: str = "") -> Pieces:
    """A conversation as the demo's chat template writes it; by default the last answer is scored."""
    flags = scored or (False,) * (len(turns) - 1) + (True,)
    pieces: Pieces = [("<s>" + head, False)]
    for (question, answer), flag in zip(turns, flags, strict=True):
        pieces += [(f"<|user|> {question}<|assistant|>", False), (f" {answer}</s>", flag)]
    return pieces


def plain(*pieces: tuple[str, bool]) -> Pieces:
    return [("<s>", False), *pieces, ("</s>", True)]


def mean_log_prob(model, tokenizer, pieces: Pieces) -> float:
    """The slow, obvious way: pieces are tokenized apart, one sequence at a time, float64."""
    ids: list[int] = []
    positions: list[int] = []
    for piece, scored in pieces:
        new = tokenizer(piece, add_special_tokens=False)["input_ids"] if isinstance(piece, str) else piece
        positions += range(len(ids), len(ids) + len(new)) if scored else []
        ids += new
    return oracle.mean_log_prob_at(model, ids, [position for position in positions if position])


def assert_scores_are_those_of(pieces_of, pool, anchors, model, tokenizer, score_dir, **options):
    """Score every pair, and hold it against `pieces_of(candidate or None, anchor)`."""
    config = NuggetsConfig(
        top_fraction=0.5, schedule="exact", exclude_self=False, template=options.pop("template", "auto")
    )
    scores, _ = score_pool(model, tokenizer, pool, anchors, config=config, score_dir=score_dir, **options)
    zero = [mean_log_prob(model, tokenizer, pieces_of(None, j)) for j in range(len(anchors))]
    one = [[mean_log_prob(model, tokenizer, pieces_of(i, j)) for j in range(len(anchors))] for i in range(len(pool))]
    assert scores.dropped == [None] * len(pool)
    np.testing.assert_allclose(scores.anchors.zero_shot, zero, rtol=0, atol=TOLERANCE)
    found = np.array(pq.read_table(score_dir / "pairs.parquet")["one_shot"].to_pylist())
    np.testing.assert_allclose(found, one, rtol=0, atol=TOLERANCE)
    golden = (np.float32(one) > np.float32(zero)).mean(axis=1)
    assert scores.golden_score.tolist() == golden.tolist()
    assert len(set(golden.tolist())) > 1  # the candidates are told apart


# ---------------------------------------------------------------- the same pairs in every format


def as_message_lists(pair):
    return {"prompt": messages(*pair)[:1], "completion": messages(*pair)[1:]}


def as_alpaca(pair):
    return {"instruction": pair[0], "output": pair[1]}


def as_human_and_gpt(pair):
    return {"conversations": [spoken("human", pair[0]), spoken("gpt", pair[1])]}


def as_columns(pair):
    return {"q": pair[0], "a": pair[1]}


def write(row) -> str:
    return f"Say {row['q']}\n= {row['a']}\n"


def shown_chat(pair) -> Pieces:
    return chat(pair)[1:]


# How a row of each format stands in a chat and in plain text, and which of it is scored.
CHAT_FORMATS = {
    "messages": as_messages,
    "message lists": as_message_lists,
    "sharegpt": as_sharegpt,
    "human and gpt": as_human_and_gpt,
    "alpaca": as_alpaca,
}
PLAIN_FORMATS = {
    "alpaca": (as_alpaca, lambda pair: [(pair[0], False), ("\n\n", False), (pair[1], True)]),
    "messages": (as_messages, lambda pair: [(pair[0], False), ("\n\n", False), (pair[1], True)]),
    "text parts": (as_text_parts, lambda pair: [(pair[0] + "\n", False), (pair[1], True)]),
    "text": (as_text, lambda pair: [(f"{pair[0]}\n{pair[1]}", True)]),
}


def pool_of(pairs, as_row, name: str = "train_dataset", **options) -> Pool:
    return Pool(Dataset.from_list([as_row(pair) for pair in pairs]), name, **options)


def behind(shown: Pieces, own: Pieces) -> Pieces:
    """Plain text: a candidate, of which nothing is scored, and a blank line before the anchor."""
    return plain(*[(text, False) for text, _ in shown], ("\n\n", False), *own)


@pytest.mark.parametrize("anchor_format", list(CHAT_FORMATS))
@pytest.mark.parametrize("pool_format", list(CHAT_FORMATS))
def test_every_format_of_conversations_is_scored_as_one_conversation(
    pool_format, anchor_format, llama, tokenizer, tmp_path
):
    pool = pool_of(CANDIDATES, CHAT_FORMATS[pool_format])
    anchors = pool_of(ANCHORS, CHAT_FORMATS[anchor_format], "anchors")

    def pieces_of(i, j):
        return chat(*([] if i is None else [CANDIDATES[i]]), ANCHORS[j])

    assert_scores_are_those_of(pieces_of, pool, anchors, llama, tokenizer, tmp_path)


@pytest.mark.parametrize("anchor_format", list(PLAIN_FORMATS))
@pytest.mark.parametrize("pool_format", list(PLAIN_FORMATS))
def test_every_format_of_text_is_scored_as_plain_text(pool_format, anchor_format, llama, tokenizer, tmp_path):
    (pool_row, shown), (anchor_row, own) = PLAIN_FORMATS[pool_format], PLAIN_FORMATS[anchor_format]
    pool, anchors = pool_of(CANDIDATES, pool_row), pool_of(ANCHORS, anchor_row, "anchors")

    def pieces_of(i, j):
        return plain(*own(ANCHORS[j])) if i is None else behind(shown(CANDIDATES[i]), own(ANCHORS[j]))

    assert_scores_are_those_of(pieces_of, pool, anchors, llama, tokenizer, tmp_path, template="plain")


def test_qwen3_shows_a_sharegpt_candidate(tokenizer):
    """Its template writes nothing for a turn of `human` or `gpt`: all rows got one golden score."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    pool, anchors = pool_of(CANDIDATES, as_human_and_gpt), pool_of(ANCHORS, as_messages, "anchors")
    template = make_template("auto", tokenizer, pool, anchors)
    expected = make_template("auto", tokenizer, pool_of(CANDIDATES, as_messages), anchors)
    for i, pair in enumerate(CANDIDATES):
        segment = template.one_shot(pool[i], anchors[0])
        assert segment == expected.one_shot(pool_of(CANDIDATES, as_messages)[i], anchors[0])
        assert pair[0] in tokenizer.decode(segment.ids)


def test_alpaca_rows_of_turns_are_scored_as_one_conversation(llama, tokenizer, tmp_path):
    """LLaMA-Factory's `history` was neither scored nor trained on."""

    def as_row(pair):
        return {**as_alpaca(pair), "history": [list(TURN)] if pair == CANDIDATES[0] or pair == ANCHORS[1] else []}

    def turns(pair):
        return [TURN, pair] if as_row(pair)["history"] else [pair]

    def pieces_of(i, j):
        return chat(*([] if i is None else turns(CANDIDATES[i])), *turns(ANCHORS[j]))

    pool, anchors = pool_of(CANDIDATES, as_row), pool_of(ANCHORS, as_row, "anchors")
    assert_scores_are_those_of(pieces_of, pool, anchors, llama, tokenizer, tmp_path)


@pytest.mark.parametrize("pool_format", ["text parts", "text"])
def test_auto_scores_text_as_text_though_there_is_a_chat_template(pool_format, llama, tokenizer, tmp_path):
    as_row, written = PLAIN_FORMATS[pool_format]
    pool, anchors = pool_of(CANDIDATES, as_row), pool_of(ANCHORS, as_row, "anchors")

    def pieces_of(i, j):
        return plain(*written(ANCHORS[j])) if i is None else behind(written(CANDIDATES[i]), written(ANCHORS[j]))

    assert tokenizer.chat_template
    assert_scores_are_those_of(pieces_of, pool, anchors, llama, tokenizer, tmp_path)


def test_text_without_bos_leaves_the_first_token_out_in_both_shots(tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.bos_token = None
    model = tiny_model("llama", len(tokenizer))

    def pieces_of(i, j):
        ids = tokenizer(as_text(ANCHORS[j])["text"], add_special_tokens=False)["input_ids"]
        shown = [] if i is None else [(as_text(CANDIDATES[i])["text"], False), ("\n\n", False)]
        return [*shown, (ids[:1], False), (ids[1:], True), ("</s>", True)]

    pool, anchors = pool_of(CANDIDATES, as_text), pool_of(ANCHORS, as_text, "anchors")
    assert_scores_are_those_of(pieces_of, pool, anchors, model, tokenizer, tmp_path)


@pytest.mark.parametrize("response_field", [None, "a"])
@pytest.mark.parametrize("anchor_format", ["the pool's columns", "text parts"])
def test_what_a_formatting_func_writes_is_scored(response_field, anchor_format, llama, tokenizer, tmp_path):
    def written(pair) -> Pieces:
        head = f"Say {pair[0]}\n= "
        return [(head, False), (pair[1] + "\n", True)] if response_field else [(head + pair[1] + "\n", True)]

    as_row, own = (as_columns, written) if anchor_format == "the pool's columns" else PLAIN_FORMATS["text parts"]
    pool = pool_of(CANDIDATES, as_columns, formatting_func=write, response_field=response_field)
    anchors = anchors_like(Dataset.from_list([as_row(pair) for pair in ANCHORS]), pool)

    def pieces_of(i, j):
        return plain(*own(ANCHORS[j])) if i is None else behind(written(CANDIDATES[i]), own(ANCHORS[j]))

    assert_scores_are_those_of(pieces_of, pool, anchors, llama, tokenizer, tmp_path)


@pytest.mark.parametrize("mask", ["labels", "completion_mask", "no mask"])
def test_rows_that_are_tokenized_already_are_joined_as_they_are(mask, llama, tokenizer, tmp_path):
    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def as_row(pair):
        prompt, completion = ids(f"<s><|user|> {pair[0]}<|assistant|>"), ids(f" {pair[1]}</s>")
        row = {"input_ids": prompt + completion}
        if mask == "labels":
            row["labels"] = [-100] * len(prompt) + completion
        elif mask == "completion_mask":
            row["completion_mask"] = [0] * len(prompt) + [1] * len(completion)
        return row

    def pieces_of(i, j):
        prompt_is_scored = mask == "no mask"
        shown = "" if i is None else "<|user|> {}<|assistant|> {}".format(*CANDIDATES[i])
        question, answer = ANCHORS[j]
        return [
            ("<s>" + shown, False),
            (f"<|user|> {question}<|assistant|>", prompt_is_scored),
            (f" {answer}</s>", True),
        ]

    masked = True if mask == "completion_mask" else None
    pool = pool_of(CANDIDATES, as_row, completion_only_loss=masked)
    anchors = pool_of(ANCHORS, as_row, "anchors", completion_only_loss=masked)
    assert_scores_are_those_of(pieces_of, pool, anchors, llama, tokenizer, tmp_path)


@pytest.mark.parametrize("as_json", [False, True])
def test_tools_and_options_of_a_row_are_rendered(as_json, llama, tokenizer, tmp_path):
    """Anchor 0 has its own tool, anchor 1 its own option, the others have the candidate's."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", TOOLS_AND_STYLE)
    names = ["north", "south", "east", "west", "north", "south", "east"]
    tools = [[{"name": name}] for name in names]

    def rows(pairs, own_tools, own_styles):
        found = []
        for pair, tool, style in zip(pairs, own_tools, own_styles, strict=True):
            row = {**as_messages(pair), "tools": json.dumps(tool) if as_json and tool else tool}
            found.append({**row, "chat_template_kwargs": {"style": style}} if style else row)
        return found

    pool = Pool(Dataset.from_list(rows(CANDIDATES, tools, ["day"] * 7)))
    anchors = Pool(Dataset.from_list(rows(ANCHORS, [[{"name": "sun"}], None, None, None], [None] * 4)), "anchors")

    def pieces_of(i, j):
        name = "sun" if j == 0 else None if i is None else names[i]
        head = ("" if i is None else "day") + ("" if name is None else f"<|system|> {name}")
        return chat(*([] if i is None else [CANDIDATES[i]]), ANCHORS[j], head=head)

    assert_scores_are_those_of(pieces_of, pool, anchors, llama, tokenizer, tmp_path)


@pytest.mark.parametrize("assistant_only_loss", [False, True])
def test_earlier_turns_of_an_anchor_are_scored_with_assistant_only_loss_alone(
    assistant_only_loss, llama, tokenizer, tmp_path
):
    def as_turns(pair):
        return {"messages": [*messages(*TURN), *messages(*pair)]}

    def pieces_of(i, j):
        shown = [] if i is None else [TURN, CANDIDATES[i]]
        return chat(*shown, TURN, ANCHORS[j], scored=(*[False] * len(shown), assistant_only_loss, True))

    assert "{% generation %}" in tokenizer.chat_template
    options = {"training_chat_template": tokenizer.chat_template} if assistant_only_loss else {}
    pool, anchors = pool_of(CANDIDATES, as_turns), pool_of(ANCHORS, as_turns, "anchors")
    assert_scores_are_those_of(pieces_of, pool, anchors, llama, tokenizer, tmp_path, **options)


def test_anchors_are_chosen_from_a_pool_of_every_format(llama, tokenizer, tmp_path):
    def as_tokens(pair):
        return {"input_ids": tokenizer(as_text(pair)["text"])["input_ids"]}

    formats = [*CHAT_FORMATS.values(), as_text_parts, as_text, as_tokens]
    seen = set()
    for k, as_row in enumerate(formats):
        pool = pool_of(CANDIDATES, as_row)
        config = NuggetsConfig(top_k=3, num_anchors=3)
        scores, golden_set = score_pool(llama, tokenizer, pool, config=config, score_dir=tmp_path / str(k))
        assert scores.dropped == [None] * 7
        assert len(golden_set) == 3
        seen.add(pool.format)
    assert seen == set(FORMATS)


def test_a_pool_of_mixed_rows_counts_the_reasons(llama, tokenizer, tmp_path):
    rows = [as_messages(pair) for pair in CANDIDATES]
    rows[1] = {"messages": messages("Say", "one")[:1]}
    rows[3] = {**rows[3], "tools": "no JSON"}
    rows = [{"tools": None, **row} for row in rows]
    config = NuggetsConfig(top_fraction=0.5)
    anchors = pool_of(ANCHORS, as_messages, "anchors")
    scores, _ = score_pool(llama, tokenizer, Pool(Dataset.from_list(rows)), anchors, config=config, score_dir=tmp_path)
    assert scores.dropped == [None, "last_message_not_assistant", None, "tools_not_json", None, None, None]


# ---------------------------------------------------------------- what TRL trains on

LOOK = [{"name": "look"}]
TRAINED = {
    "messages": {"messages": [*messages(*TURN), *messages("Say red?", "one")]},
    "message lists": {
        "prompt": [*messages(*TURN), *messages("Say red?", "")[:1]],
        "completion": messages("", "one")[1:],
    },
    "sharegpt": as_sharegpt(("Say red?", "one")),
    "tools": {"messages": messages("Say red?", "one"), "tools": LOOK},
    "tools as JSON": {
        "prompt": messages("Say?", "")[:1],
        "completion": messages("", "one")[1:],
        "tools": json.dumps(LOOK),
    },
    "options": {"messages": messages("Say red?", "one"), "chat_template_kwargs": {"style": "day"}},
    "tool call": {"messages": messages("Say red?", "", tool_calls=[{"function": {"name": "look"}}])},
    "text": {"text": "Say red? one"},
    "text in another column": {"text": "meta", "content": "Say red? one"},
    "Alpaca and text": {"instruction": "Say", "output": "red", "text": "### Say ### red"},
    "tokenized": {"input_ids": [1, 20, 21, 22, 2], "labels": [-100, -100, 21, 22, -100]},
    "masked": {"input_ids": [1, 20, 21, 22, 2], "completion_mask": [0, 0, 1, 1, 1]},
    "masked for the assistant": {
        "input_ids": [1, 20, 21, 22, 2],
        "completion_mask": [0, 0, 1, 1, 1],
        "assistant_masks": [0, 1, 1, 0, 0],
    },
    "tokenized, masked, and raw": {
        "input_ids": [1, 20, 21, 22, 2],
        "completion_mask": [0, 0, 1, 1, 1],
        "prompt": "x",
        "completion": "y",
    },
}
NOT_CONVERSATIONAL = ("sharegpt", "text", "text in another column", "Alpaca and text")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of TRL, about its own defaults
@pytest.mark.parametrize("completion_only_loss", [None, True, False])
@pytest.mark.parametrize("assistant_only_loss", [False, True])
@pytest.mark.parametrize("name", list(TRAINED))
def test_a_row_is_scored_on_the_token_ids_that_trl_trains_on(
    name, assistant_only_loss, completion_only_loss, tokenizer, tmp_path
):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", TOOLS_AND_STYLE).replace(
        "message['content'] + eos", "message['content'] ~ (message.tool_calls or '') ~ eos"
    )
    rows = Dataset.from_list([TRAINED[name], TRAINED[name]])
    text_field = "content" if name == "text in another column" else "text"
    args = SFTConfig(
        str(tmp_path),
        assistant_only_loss=assistant_only_loss,
        completion_only_loss=completion_only_loss,
        dataset_text_field=text_field,
        use_cpu=True,
        report_to="none",
    )
    model = tiny_model("llama", len(tokenizer))
    pool = Pool(rows, text_field=text_field, completion_only_loss=completion_only_loss)
    training = tokenizer.chat_template if assistant_only_loss else None
    if assistant_only_loss and (name in NOT_CONVERSATIONAL or "input_ids" in TRAINED[name]):
        with pytest.raises(ValueError, match="`assistant_only_loss=True`, but .* not conversational"):
            SFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
        with pytest.raises(ValueError, match="`assistant_only_loss=True` needs conversations, but"):
            make_template("auto", tokenizer, pool, training_chat_template=training)
        return
    trainer = SFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    trained = trainer.train_dataset[0]
    labels = trainer.data_collator([trained])["labels"][0].tolist()  # older versions of TRL store none
    template = make_template("auto", tokenizer, pool, training_chat_template=training)
    segment = template.zero_shot(pool[0])
    assert segment.ids == trained["input_ids"]
    completion_alone = completion_only_loss is not False and "completion" in TRAINED[name]
    if assistant_only_loss or "input_ids" in TRAINED[name]:
        assert list(segment.positions) == [i for i, label in enumerate(labels) if label != -100 and i]
    elif completion_alone:
        assert list(segment.positions) == [i for i, label in enumerate(labels) if label != -100]


# ---------------------------------------------------------------- refused before any work


def as_ids(pair):
    return {"input_ids": [5, 6, 7]}


@pytest.mark.parametrize(
    ("pool_row", "anchor_row", "template", "options", "message"),
    [
        (as_text, as_text, "chat", {}, "`template='chat'` needs .*`train_dataset` has rows of text alone"),
        (as_messages, as_text, "nuggets", {}, "`template='nuggets'` needs .*`anchors` has rows of text alone"),
        (as_messages, as_text, "auto", {}, r"`template='chat'` \(which `auto` stands for here\).*template='plain'"),
        (as_ids, as_text, "auto", {}, "both be tokenized already or neither, got .*'tokenized', 'anchors': 'text'"),
        (as_messages, as_ids, "auto", {}, "both be tokenized already or neither"),
        (as_ids, as_ids, "plain", {}, "`template='plain'` renders text, but `train_dataset` is tokenized already"),
        (as_text, as_text, "auto", {"training_chat_template": "x"}, "`assistant_only_loss=True` needs conversations"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_any_forward_pass(
    pool_row, anchor_row, template, options, message, llama, tokenizer, tmp_path
):
    pool, anchors = pool_of(CANDIDATES, pool_row), pool_of(ANCHORS, anchor_row, "anchors")
    forwards = []
    handle = llama.register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises(ValueError, match=message):
        score_pool(
            llama, tokenizer, pool, anchors, config=NuggetsConfig(template=template), score_dir=tmp_path, **options
        )
    handle.remove()
    assert not forwards
