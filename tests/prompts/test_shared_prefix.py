"""A candidate is computed once for all anchors, and prefix + suffix is still the joint rendering, token by token."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

from nuggets_trainer.data.read_row import read_row
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.nuggets import NuggetsTemplate
from nuggets_trainer.prompts.plain import PlainTemplate
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.prompts.tokenize import MOST_RECENT, RecentRows
from nuggets_trainer.scoring.collect import anchor_scores
from tests.support.oracle import render
from tests.support.renderings import BREAKING, TEMPLATES
from tests.support.renderings import SETUPS as FEW_SETUPS
from tests.support.rows import alpaca_rows

SETUPS = [*FEW_SETUPS, ("tokenizers/mistral-v3", "plain"), ("tokenizers/mistral-v3", "nuggets")]
ANCHORS, CANDIDATES = alpaca_rows(6, seed=11), alpaca_rows(8, seed=12)


def alpaca(rows: list[dict[str, str]]) -> list[Row]:
    return [read_row(row, "alpaca") for row in rows]


def conversation(system: str | None, user: str, assistant: str = "one") -> Row:
    head = [] if system is None else [{"role": "system", "content": system}]
    return Row([*head, {"role": "user", "content": user}], [{"role": "assistant", "content": assistant}])


def assert_joint(template, anchors: list[Row], candidates: list[Row]) -> tuple[int, int]:
    """Check every candidate x anchor; return how many pairs were shared and how many rendered whole."""
    split = SharedPrefix(template, anchors)
    num_shared = num_whole = 0
    for candidate in candidates:
        prompt = split.candidate(candidate)
        assert sorted(j for _, positions, _ in split.parts(prompt) for j in positions) == list(range(len(anchors)))
        for prefix, positions, segments in split.parts(prompt):
            for j in positions:
                joint = template.one_shot(candidate, anchors[j])
                if not prefix:
                    assert segments[j] == prompt.unshared[j] == joint
                    num_whole += 1
                    continue
                suffix = split.suffixes[j]
                assert [*prefix, *suffix.ids] == joint.ids
                assert [len(prefix) + position for position in suffix.positions] == list(joint.positions)
                assert 1 <= suffix.start < len(suffix.ids)
                assert j not in prompt.unshared
                num_shared += 1
    return num_shared, num_whole


# ---------------------------------------------------------------- sharing


@pytest.mark.parametrize(("name", "template_name"), SETUPS)
def test_prefix_and_suffix_are_the_joint_rendering(name, template_name, loaded):
    template = TEMPLATES[template_name](loaded(name))
    anchors, candidates = alpaca(ANCHORS), alpaca(CANDIDATES)
    num_shared, num_whole = assert_joint(template, anchors, candidates)
    assert (num_shared, num_whole) == (len(anchors) * len(candidates), 0)


@pytest.mark.parametrize(("name", "template_name"), SETUPS)
def test_the_whole_candidate_is_in_the_prefix(name, template_name, loaded):
    """Else each suffix would compute a part of it again."""
    tokenizer = loaded(name)
    split = SharedPrefix(TEMPLATES[template_name](tokenizer), alpaca(ANCHORS))
    longest = max(len(suffix.ids) for suffix in split.suffixes.values())
    for candidate in CANDIDATES:
        context, completion = render(tokenizer, template_name, ANCHORS[0], None)
        joint = sum(map(len, render(tokenizer, template_name, ANCHORS[0], candidate)))
        (prefix,) = split.candidate(read_row(candidate, "alpaca")).prefixes
        shown = joint - len(context) - len(completion)
        assert len(prefix) >= shown > 1
    assert longest <= max(sum(map(len, render(tokenizer, template_name, anchor, None))) for anchor in ANCHORS)


@pytest.mark.parametrize("template_name", list(TEMPLATES))
def test_one_anchor_keeps_a_prompt_token_in_its_suffix(template_name, loaded):
    template = TEMPLATES[template_name](loaded("demo"))
    anchors = alpaca(ANCHORS[:1])
    assert assert_joint(template, anchors, alpaca(CANDIDATES)) == (len(CANDIDATES), 0)
    assert SharedPrefix(template, anchors).suffixes[0].start == 1


@pytest.mark.parametrize("template_name", list(TEMPLATES))
def test_anchors_that_begin_alike_keep_their_completion(template_name, loaded):
    template = TEMPLATES[template_name](loaded("demo"))
    texts = [("red", "one"), ("red", "one"), ("red", "one two"), ("red cat", "one"), ("red", "two")]
    anchors = alpaca([{"instruction": prompt, "output": completion} for prompt, completion in texts])
    assert assert_joint(template, anchors, [*anchors, *alpaca(CANDIDATES)])[1] == 0
    split = SharedPrefix(template, anchors)
    for anchor, suffix in zip(anchors, split.suffixes.values(), strict=True):
        zero = template.zero_shot(anchor)
        assert suffix.ids[suffix.start :] == zero.ids[zero.start :]


@pytest.mark.parametrize("name", ["demo", "models/tiny-llama-icl", "tokenizers/minimind", "tokenizers/mistral-v3"])
def test_anchors_are_grouped_by_system_message(name, loaded):
    template = ChatTemplate(loaded(name))
    systems = [None, "red", None, "blue", "red"]
    anchors = [conversation(system, f"cat {i}?") for i, system in enumerate(systems)]
    candidates = [conversation(system, f"dog {i}") for i, system in enumerate([None, "red", "green"])]
    assert assert_joint(template, anchors, candidates) == (15, 0)
    split = SharedPrefix(template, anchors)
    assert split.headers == [[0, 2], [1, 4], [3]]
    assert len(split.candidate(candidates[0]).prefixes) == 3


def test_a_candidates_system_message_keeps_scored_tokens(loaded):
    """Mistral writes it into the last user turn of a prompt, but not of a whole conversation.

    Prompt and conversation then part before that turn, so that 7 tokens, question and all, were held against the 2
    tokens of the answer zero-shot.
    """
    template = ChatTemplate(loaded("tokenizers/mistral-v3"))
    anchor = conversation(None, "cat 0?")
    zero, one = template.zero_shot(anchor), template.one_shot(conversation("red", "dog"), anchor)
    assert one.targets == zero.targets


def test_anchors_share_a_prefix_by_tools_and_options(loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = (
        "{{ style }}{% for t in tools or [] %}{{ t.name }} {% endfor %}" + tokenizer.chat_template
    )
    template = ChatTemplate(tokenizer)
    options = [
        {},
        {"tools": [{"name": "red"}]},
        {"template_kwargs": {"style": "day"}},
        {"tools": [{"name": "red"}]},
        {},
    ]
    anchors = [replace(conversation(None, f"cat {i}?"), **kind) for i, kind in enumerate(options)]
    shown = [{}, {"tools": [{"name": "sun"}]}, {"template_kwargs": {"style": "night"}}]
    candidates = [replace(conversation(None, f"dog {i}"), **kind) for i, kind in enumerate(shown)]
    assert assert_joint(template, anchors, candidates) == (15, 0)
    split = SharedPrefix(template, anchors)
    assert split.headers == [[0, 4], [1, 3], [2]]
    assert len({tuple(prefix.tolist()) for prefix in split.candidate(candidates[0]).prefixes}) == 3


def test_a_candidate_that_changes_scored_tokens_is_dropped(loaded):
    """It was scored on other tokens than the anchor is alone."""
    tokenizer = loaded("demo")
    tokenizer.chat_template = (
        "{% set first = messages[0].content %}{% for m in messages %}<|{{ m.role }}|> {{ m.content }} "
        "{% if loop.last and m.role == 'assistant' and first == 'odd' %}{{ 'two' }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|> {% endif %}"
    )
    split = SharedPrefix(ChatTemplate(tokenizer), [conversation(None, "red"), conversation(None, "blue")])
    assert split.candidate(conversation(None, "even")).prefixes
    with pytest.raises(UnusableRowError, match="^completion_changes$"):
        split.candidate(conversation(None, "odd"))


def test_conversations_of_several_turns_are_split(loaded):
    template = ChatTemplate(loaded("demo"))
    long = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    rows = [conversation(None, "red?"), Row(long, [{"role": "assistant", "content": "d"}]), conversation(None, "a")]
    assert assert_joint(template, rows, rows) == (9, 0)


def test_pairs_that_cannot_share_are_rendered_whole(loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = BREAKING
    template = ChatTemplate(tokenizer)
    anchors, candidates = alpaca(ANCHORS), alpaca(CANDIDATES)
    num_shared, num_whole = assert_joint(template, anchors, candidates)
    assert (num_shared, num_whole) == (0, len(anchors) * len(candidates))
    joint = [template.one_shot(candidates[0], anchor).ids for anchor in anchors[:2]]
    before_anchor = len(joint[0]) - len(template.zero_shot(anchors[0]).ids)
    assert joint[0][:before_anchor] != joint[1][:before_anchor]  # what stands before the anchor depends on the anchor


def test_only_candidates_that_break_sharing_are_whole(loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = BREAKING.replace("m.role == 'user' and", "'dog' in m.content and m.role == 'user' and")
    candidates = [conversation(None, text) for text in ("red", "dog", "blue", "a dog")]
    anchors = [conversation(None, f"cat {i}") for i in range(3)]
    assert assert_joint(ChatTemplate(tokenizer), anchors, candidates) == (6, 6)


def test_a_middle_anchor_that_breaks_sharing_is_found(loaded):
    """Line breaks in a row are one token of GPT-2, wherever candidate and anchor part.

    A look at the first and the last anchor does not show it, and the pair in the middle is scored on other tokens than
    those of the joint rendering.
    """
    tokenizer = copy.deepcopy(loaded("tokenizers/gpt2"))
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    anchors = [conversation(None, text) for text in ("red", "\n\tblue", "green")]
    assert_joint(
        ChatTemplate(tokenizer), anchors, [conversation(None, "dog", "day"), conversation(None, "dog", "day\n")]
    )


# ---------------------------------------------------------------- the model's context


@pytest.mark.parametrize("breaking", [False, True])
def test_a_candidate_must_fit_with_every_anchor(breaking, loaded):
    tokenizer = loaded("demo")
    if breaking:
        tokenizer.chat_template = BREAKING
    template = ChatTemplate(tokenizer)
    anchors, candidate = alpaca(ANCHORS), alpaca(CANDIDATES)[0]
    longest = max(len(template.one_shot(candidate, anchor).ids) for anchor in anchors)
    shortest = min(len(template.one_shot(candidate, anchor).ids) for anchor in anchors)
    assert shortest < longest - 1  # it would fit with some
    assert bool(SharedPrefix(template, anchors, longest).candidate(candidate).unshared) == breaking
    with pytest.raises(UnusableRowError, match="^too_long$"):
        SharedPrefix(template, anchors, longest - 1).candidate(candidate)


def test_a_candidate_that_is_not_rendered_has_a_reason(loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }} {% endfor %}"
    )
    split = SharedPrefix(ChatTemplate(tokenizer), [conversation(None, "red"), conversation(None, "blue")])
    assert split.candidate(conversation(None, "good")).prefixes
    with pytest.raises(UnusableRowError, match="^not_tokenizable$"):
        split.candidate(conversation(None, "bad"))


def test_num_tokens_is_the_longest_prefix_or_segment(loaded):
    tokenizer = loaded("demo")
    anchors, candidates = alpaca(ANCHORS), alpaca(CANDIDATES)
    prompts = [SharedPrefix(ChatTemplate(tokenizer), anchors).candidate(row) for row in candidates]
    assert [prompt.num_tokens() for prompt in prompts] == [len(prompt.prefixes[0]) for prompt in prompts]
    tokenizer.chat_template = BREAKING
    whole = SharedPrefix(ChatTemplate(tokenizer), anchors).candidate(candidates[0])
    assert whole.num_tokens() == max(len(segment.ids) for segment in whole.unshared.values())


# ---------------------------------------------------------------- which anchors are usable


def test_unusable_anchors_keep_their_place_and_reason(loaded):
    template = PlainTemplate(loaded("demo"))
    good = alpaca(ANCHORS)
    rows = [good[0], "empty_completion", alpaca([{"instruction": "red " * 400, "output": "one"}])[0], good[1]]
    anchor_set = AnchorSet(template, rows, [5, 6, 7, 8], max_length=100)
    assert anchor_set.usable == [0, 3]
    assert anchor_set.rows == [good[0], good[1]]
    assert anchor_set.keys == [good[0].key, good[1].key]
    assert anchor_set.segments == [template.zero_shot(good[0]), template.zero_shot(good[1])]
    scores = anchor_scores(anchor_set, np.array([-1.5, -2.5], dtype=np.float32))
    assert scores.dropped == [None, "empty_completion", "too_long", None]
    assert scores.pool_index == [5, 6, 7, 8]
    np.testing.assert_array_equal(scores.zero_shot, np.array([-1.5, np.nan, np.nan, -2.5], dtype=np.float32))
    counts = [segment.num_completion_tokens for segment in anchor_set.segments]
    assert scores.num_tokens.tolist() == [counts[0], 0, 0, counts[1]]
    assert len(scores) == 4
    assert scores.num_cut == 0


def test_an_anchor_counts_once_in_its_set(loaded):
    """One that was listed twice had two votes in each golden score."""
    red, blue = alpaca(ANCHORS)[:2]
    rows = [red, blue, "empty_prompt", red, red, red]
    names = ["a", "a", "a", "a", "b", "b"]
    anchor_set = AnchorSet(PlainTemplate(loaded("demo")), rows, [None] * 6, None, names)
    assert anchor_set.dropped == [None, None, "empty_prompt", "repeated_anchor", None, "repeated_anchor"]
    assert anchor_set.usable == [0, 1, 4] and anchor_set.repeats == {3: 0, 5: 4}


def test_an_anchor_of_exactly_the_context_is_usable(loaded):
    template, row = PlainTemplate(loaded("demo")), alpaca(ANCHORS)[0]
    length = len(template.zero_shot(row).ids)
    assert AnchorSet(template, [row], [None], max_length=length).usable == [0]
    with pytest.raises(ValueError, match="too_long 1"):
        AnchorSet(template, [row], [None], max_length=length - 1)


def test_an_anchor_without_finite_log_prob_is_dropped(loaded):
    anchor_set = AnchorSet(PlainTemplate(loaded("demo")), alpaca(ANCHORS)[:3], [None] * 3, max_length=None)
    scores = anchor_scores(anchor_set, np.array([-1.0, np.nan, -np.inf], dtype=np.float32))
    assert scores.dropped == [None, "non_finite_log_prob", "non_finite_log_prob"]
    assert np.isnan(scores.zero_shot[1:]).all()
    assert scores.num_tokens.tolist()[1:] == [0, 0]


def test_an_anchor_refused_or_rewritten_is_dropped(loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('no') }}{% endif %}"
        "{% if loop.last and 'moody' in m.content %}{{ messages|length }} {% endif %}{{ m.content }}  {% endfor %}"
    )
    rows = [conversation(None, "red"), conversation(None, "bad"), conversation(None, "blue", "moody")]
    anchor_set = AnchorSet(ChatTemplate(tokenizer), rows, [None] * 3, max_length=None)
    assert anchor_set.usable == [0]
    assert anchor_scores(anchor_set, np.zeros(1, np.float32)).dropped == [
        None,
        "not_tokenizable",
        "completion_changes",
    ]


def test_anchors_that_nuggets_cuts_are_counted_once(loaded):
    rows = alpaca(
        [
            {"instruction": "Say", "output": "red " * 300},
            {"instruction": "Say", "output": "one"},
            {"instruction": "red " * 300, "output": "one"},
            {"instruction": "Say", "output": "blue " * 300},
        ]
    )
    anchor_set = AnchorSet(NuggetsTemplate(loaded("demo")), rows, [None] * 4, max_length=None)
    scores = anchor_scores(anchor_set, np.zeros(3, np.float32))
    assert scores.dropped == [None, None, "completion_cut_away", None]
    assert scores.num_cut == 2
    assert [len(segment.ids) for segment in anchor_set.segments][::2] == [200, 200]


def test_no_usable_anchor_is_an_error_with_the_reasons(loaded):
    long = alpaca([{"instruction": "red " * 50, "output": "one"}] * 2)
    rows = ["empty_completion", *long]
    with pytest.raises(
        ValueError, match=r"No anchor can be scored: all 3 were dropped \(too_long 2, empty_completion 1\).*20 tokens"
    ):
        AnchorSet(PlainTemplate(loaded("demo")), rows, [None] * 3, max_length=20)


# ---------------------------------------------------------------- what is kept from row to row


def test_what_is_kept_for_a_row_is_its_own():
    recent: RecentRows[str] = RecentRows()
    rows = [Row("a", str(number)) for number in range(MOST_RECENT + 3)]
    asked: list[Row] = []

    def completion(row: Row) -> str:
        asked.append(row)
        return str(row.completion)

    for row in [*rows, rows[-1], rows[0]]:
        assert recent.of(row, completion) == row.completion
    assert asked == [*rows, rows[0]]  # the last is kept, the first is not any more
    again = pickle.loads(pickle.dumps(recent))
    again._found = {id(rows[0]): (Row("a", "of another"), "of another")}  # its id is now that of another row
    assert again.of(rows[0], completion) == "0"


@pytest.mark.parametrize("template_name", list(TEMPLATES))
def test_a_candidate_is_tokenized_as_by_a_new_template(template_name, loaded):
    """In whatever order rows come: as candidates, as anchors, again."""
    rows, tokenizer = alpaca(ANCHORS[:3] + CANDIDATES[:3]), loaded("demo")
    template = TEMPLATES[template_name](tokenizer)
    for candidate in rows:
        for anchor in [*rows, rows[0]]:
            new = TEMPLATES[template_name](tokenizer)
            assert template.one_shot(candidate, anchor) == new.one_shot(candidate, anchor)
            assert template.zero_shot(anchor) == new.zero_shot(anchor)
