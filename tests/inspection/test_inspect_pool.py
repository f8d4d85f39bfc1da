"""What an inspection finds is what reading, rendering and scoring do."""

from __future__ import annotations

import copy
import json
from collections import Counter

import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, inspect_pool
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.inspection import inspect_pool as module
from nuggets_trainer.prompts.templates import make_template
from tests.support.rows import alpaca_rows
from tests.support.trl_templates import SOURCES

SYSTEM = {"role": "system", "content": "Be brief."}


def conversation(*texts, system=False):
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": [SYSTEM, *turns] if system else turns}


def with_template(tokenizer, name):
    found = copy.deepcopy(tokenizer)
    found.chat_template = SOURCES[name]
    return found


def texts_of(view):
    return {span.kind: span.text for span in view.spans}


def test_a_row_is_shown_as_it_is_scored(pool, anchors, tokenizer):
    found = inspect_pool(tokenizer, pool, anchors, indices=[3, 0])
    template = make_template("auto", tokenizer, Pool(pool), Pool(anchors))
    for view in found.rows:
        pair = template.one_shot(Pool(pool)[view.index], Pool(anchors)[view.anchor])
        assert "".join(span.text for span in view.spans) == tokenizer.decode(pair.ids)
        assert sum(span.num_tokens for span in view.spans) == len(pair.ids)
        assert texts_of(view)["scored"] == tokenizer.decode(pair.targets)
        assert [span.kind for span in view.spans] == ["context", "candidate", "answer", "anchor", "scored"]
        alone = template.zero_shot(Pool(pool)[view.index])
        assert list(view.token_ids) == alone.ids and list(view.scored) == list(alone.positions)
    assert [view.index for view in found.rows] == [3, 0]


@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "qwen3", "gemma3", "phi3", "deepseek_r1_distill"])
@pytest.mark.parametrize("system", [False, True])
def test_the_parts_of_a_prompt_are_told_apart(name, system, tokenizer):
    rows = Dataset.from_list([conversation("Say red?", "red", "Sure?", "north"), conversation("Why?", "so it is")])
    anchors = Dataset.from_list([conversation("Say blue?", "sun", system=system), conversation("What?", "one two")])
    found = inspect_pool(with_template(tokenizer, name), rows, anchors)
    for view in found.rows:
        texts = texts_of(view)
        said = [message["content"] for message in rows[view.index]["messages"]]
        assert all(text in texts["candidate"] for text in said[:-1]) and said[-1] not in texts["candidate"]
        assert said[-1] in texts["answer"] and "Say blue" not in texts["answer"]
        asked = [message["content"] for message in anchors[view.anchor]["messages"]]
        assert asked[-2] in texts["anchor"] and asked[-1] in texts["scored"]
        assert ("Be brief." in texts.get("context", "")) == (system and view.anchor == 0)


def test_reasons_repeats_and_roles_are_counted(tokenizer):
    rows = [{"conversations": [{"from": "human", "value": "Red?"}, {"from": "gpt", "value": "Yes."}]}] * 3
    rows.append({"conversations": [{"from": "human", "value": "Blue?"}]})
    found = inspect_pool(tokenizer, Dataset.from_list(rows), Dataset.from_list(rows[:1]), indices=[3])
    assert [(fact.reason, fact.num_rows, fact.examples) for fact in found.dropped] == [
        ("duplicate", 2, (1, 2)),
        ("last_message_not_assistant", 1, (3,)),
    ]
    assert found.duplicates["near"].num_rows == 0 and "no row nearly equals another one (near)" in str(found)
    assert "prompt" not in found.duplicates  # a row that is dropped is no other answer
    assert found.duplicates["exact"].num_rows == 2 and found.duplicates["exact"].examples == ((0, 1, 2),)
    assert found.same_as_anchor == 3
    assert found.format.roles == {"human": 4, "gpt": 3} and found.format.renamed_roles["gpt"] == "assistant"
    assert "Blue?" in found.rows[0].record and found.rows[0].dropped == "last_message_not_assistant"


def test_prompts_with_several_answers_are_told(tokenizer):
    rows = [{"prompt": text, "completion": str(i)} for i, text in enumerate(["Red?", "Blue?", "red? ", "Red?", "Go?"])]
    found = inspect_pool(tokenizer, Dataset.from_list(rows), num_rows=0)
    assert found.duplicates["prompt"].examples == ((0, 2, 3),)
    told = "1 prompt has several rows, 3 in all: 0 = 2 = 3 (`max_rows_per_prompt: 1` keeps the best row of each)"
    assert told in " ".join(str(found).split())


def test_unknown_roles_and_several_anchor_sets_are_told(tokenizer):
    odd = [{"role": "User", "content": "Red?"}, {"role": "assistant", "content": "Yes."}]
    rows = Dataset.from_list([{"messages": odd}, conversation("Blue?", "No.")])
    sets = {"one": rows.select([1]), "two": rows.select([1])}
    found = inspect_pool(tokenizer, rows, sets)
    assert found.format.unknown_roles == ("User",) and "no standard roles: User" in str(found)
    assert found.anchors.num_anchors == 2 and found.anchors.dropped == {}  # equal ones may stand in two sets


def test_a_pool_with_a_function_is_taken_as_it_is(tokenizer):
    rows = Dataset.from_list([{"q": "One?", "a": "two"}, {"q": "Three?", "a": "four"}])
    pool = Pool(rows, formatting_func=lambda row: f"{row['q']} {row['a']}", response_field="a")
    found = inspect_pool(tokenizer, pool)
    assert found.format.name == "formatting_func" and found.loss_on == "all"
    assert [column.read_as for column in found.columns] == ["q", "a"]
    assert texts_of(found.rows[0])["answer"].strip() == "two"


def test_rows_that_do_not_fit_the_context_are_dropped(pool, anchors, tokenizer):
    unlimited = inspect_pool(tokenizer, pool, anchors)
    rows, longest = unlimited.lengths[0], unlimited.anchors.longest
    found = inspect_pool(tokenizer, pool, anchors, context=rows.median + longest)
    assert not unlimited.dropped
    assert found.dropped[0].reason == "too_long" and 0 < found.dropped[0].num_rows < len(pool)
    assert {fact.of for fact in found.lengths} == {"row", "prompt", "completion", "anchor"}


def test_other_rows_stand_in_for_anchors(pool, tokenizer):
    found = inspect_pool(tokenizer, pool)
    assert found.anchors.num_anchors == 0 and len(found.anchors.stand_in) == 10
    assert "random rows take their place" in str(found)
    assert len(found.rows) == 10 and found.rows[0].index == 0 and found.rows[-1].index == len(pool) - 1


def test_a_large_pool_is_sampled(pool, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "MOST_RENDERED", 5)
    found = inspect_pool(tokenizer, pool)
    assert found.num_rendered == 5 and found.num_rows == len(pool) == 12
    assert "The lengths are those of 5 random rows." in str(found)


def test_a_guessed_mapping_is_used_and_told(tokenizer):
    rows = Dataset.from_list([{"id": i, "question": f"{i}?", "answer": "so"} for i in range(3)])
    found = inspect_pool(tokenizer, rows)
    words = ("instruction=question", "output=answer")
    assert found.format.columns_to_give == words and f"--columns {' '.join(words)}" in str(found)
    given = inspect_pool(tokenizer, rows, config=NuggetsConfig(columns=list(words)))
    assert given.rows == found.rows and not given.format.columns_to_give
    assert [column.read_as for column in given.columns] == [None, "instruction", "output"]


def test_a_problem_leaves_what_can_be_shown(tokenizer):
    unknown = inspect_pool(tokenizer, Dataset.from_list([{"a": "one", "b": "two"}]))
    assert "match no known format" in unknown.problem and not unknown.rows and unknown.format is None
    assert [column.example for column in unknown.columns] == ["one", "two"]
    alone = copy.deepcopy(tokenizer)
    alone.bos_token = None
    found = inspect_pool(alone, Dataset.from_list(alpaca_rows(3)), config=NuggetsConfig(template="nuggets"))
    assert "needs" not in str(found.template) and "BOS" in found.problem
    assert found.length_unit == "characters" and texts_of(found.rows[0])["candidate"].startswith("Say")
    empty = inspect_pool(tokenizer, Dataset.from_list([{"instruction": "One?", "output": ""}]))
    assert "can be an anchor" in empty.problem and "(empty_completion 1)" in empty.problem
    assert empty.dropped[0].reason == "empty_completion"


def test_a_large_pool_says_how_long_it_is_read(monkeypatch, caplog):
    """Minutes passed without a line."""
    rows = Dataset.from_list(alpaca_rows(3))
    monkeypatch.setattr("nuggets_trainer.inspection.inspect_pool.SECONDS_PER_ROW", 30)
    with caplog.at_level("INFO", "nuggets_trainer"):
        inspect_pool(None, rows)
        assert not caplog.messages
        monkeypatch.setattr("nuggets_trainer.inspection.inspect_pool.MANY_ROWS", 3)
        inspect_pool(None, rows)
    assert caplog.messages == ["reading and comparing 3 rows takes about 1.5 min on one core"]


def test_rows_that_leave_nothing_to_select_are_a_problem(tokenizer):
    """`nuggets inspect` exited with 0, although `nuggets score` refuses such rows."""
    kept = Dataset.from_list(alpaca_rows(3))
    empty = Dataset.from_list([{"instruction": "One?", "output": ""}, {"instruction": "Two?", "output": ""}])
    long = Dataset.from_list([{"instruction": "One?", "output": "word " * 900}])
    for model, rows, anchors, reason in (
        (None, empty, None, "empty_completion 2"),
        (tokenizer, empty, kept, "empty_completion 2"),
        (tokenizer, long, kept, "too_long 1"),
    ):
        found = inspect_pool(model, rows, anchors, context=512)
        assert found.problem == f"No row of the pool can be scored: all {len(rows)} were dropped ({reason})."
    few = inspect_pool(None, kept, config=NuggetsConfig(top_k=4))
    assert "`top_k=4` is larger than the usable pool" in few.problem


def test_the_first_error_of_the_template_is_told(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
    rows = Dataset.from_list([{"instruction": "a", "output": "b"}])
    assert "The first error was TemplateError('no system messages')" in str(inspect_pool(tokenizer, rows).problem)


def test_without_a_tokenizer_rows_are_shown_as_read(pool):
    found = inspect_pool(None, pool, num_rows=2)
    assert found.template is None and found.problem is None and found.length_unit == "characters"
    assert [span.kind for span in found.rows[0].spans] == ["candidate", "answer"]
    assert found.lengths[0].longest == max(Pool(pool)[i].size for i in range(len(pool)))


def test_the_source_of_the_template_is_named(pool, tokenizer, tmp_path):
    assert inspect_pool(tokenizer, pool).template.source == "the chat template of nuggets-demo/model"
    jinja = tmp_path / "own.jinja"
    jinja.write_text(tokenizer.chat_template)
    own = inspect_pool(tokenizer, pool, row_options=RowOptions(chat_template_path=str(jinja)))
    assert own.template.source == f"{jinja} (`chat_template_path`)"
    text = Dataset.from_list([{"text": "one two"}, {"text": "three"}])
    assert inspect_pool(tokenizer, text).template.name == "plain"
    plain = inspect_pool(tokenizer, pool, config=NuggetsConfig(template="plain"))
    assert plain.template.why == "`template` says so" and plain.rows[0].spans[-1].text.endswith("</s>")


def test_an_index_outside_of_the_pool_is_refused(pool):
    with pytest.raises(ValueError, match=r"`indices` must be row numbers from 0 to 11, got 12"):
        inspect_pool(None, pool, indices=[12])


def test_all_of_it_is_json(pool, anchors, tokenizer):
    found = inspect_pool(tokenizer, pool, anchors)
    again = json.loads(json.dumps(found.to_dict()))
    assert again["rows"][0]["token_ids"] == list(found.rows[0].token_ids)
    assert Counter(span["kind"] for row in again["rows"] for span in row["spans"])["scored"] == 10


def test_rows_with_standard_names_are_shown_as_they_are_read():
    """They were said not to be read, because `columns` names others, which are not there."""
    found = inspect_pool(None, Dataset.from_list(alpaca_rows(3)), config=NuggetsConfig(columns="instruction=question"))
    read = {column.name: column.read_as for column in found.columns}
    assert read["instruction"] == "instruction" and "question" not in found.format.why


def test_anchors_that_cannot_be_read_are_told_without_a_model():
    """They were not looked at, and the inspection ended well."""
    rows, anchors = Dataset.from_list(alpaca_rows(3)), Dataset.from_list([{"foo": "a", "bar": "b"}])
    found = inspect_pool(None, rows, anchors)
    assert found.rows and "`anchors` has the columns ['bar', 'foo']" in found.problem
    assert inspect_pool(None, rows, rows).problem is None
