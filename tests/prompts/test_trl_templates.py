"""Under every chat template of TRL the scored tokens are the same in both shots, and the shared prefix is right."""

from __future__ import annotations

import copy
import functools

import jinja2
import pytest
from transformers import AutoTokenizer
from trl.data_utils import prepare_multimodal_messages

from nuggets_trainer.data.row import Message, Row, UnusableRowError
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.segment import Segment, common_prefix_length
from nuggets_trainer.prompts.shared_prefix import SharedPrefix
from tests.support.launch import SHARED
from tests.support.trl_templates import SOURCES

NAMES = sorted(SOURCES)
TRAINING = [name for name in NAMES if name.endswith("_training")]
# Templates of vision models that read the parts of a content alone: one raises at text, the others leave it out.
WANTS_PARTS = {
    "idefics3": "leaves out",
    "idefics3_training": "leaves out",
    "llava_next": "raises",
    "llava_next_training": "raises",
    "smolvlm": "leaves out",
    "smolvlm_training": "leaves out",
}
NO_SYSTEM_ROLE = {"gemma", "gemma_training"}
TOKENIZERS = ["demo", "minimind"]


@functools.cache
def _load(path: str):
    return AutoTokenizer.from_pretrained(path)


@pytest.fixture()
def with_template(request, tokenizer):
    """A tokenizer by name, with the chat template of that name."""

    def load(tokenizer_name: str, name: str):
        if tokenizer_name != "demo":
            request.getfixturevalue("shared")
        found = tokenizer if tokenizer_name == "demo" else _load(str(SHARED / "tokenizers" / tokenizer_name))
        found = copy.deepcopy(found)
        found.chat_template = SOURCES[name]
        return found

    return load


def message(name: str, role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}] if name in WANTS_PARTS else text}


def asked(name: str, *texts: str, system: str | None = None) -> Row:
    """User and assistant in turn; the last text is the completion."""
    head = [] if system is None else [message(name, "system", system)]
    turns = [message(name, ("user", "assistant")[k % 2], text) for k, text in enumerate(texts)]
    return Row([*head, *turns[:-1]], turns[-1:])


def rows(name: str, system: str | None) -> tuple[list[Row], list[Row]]:
    """Candidates and anchors; the anchors have this system message."""
    texts = [("Say red?", "two three"), ("Say blue?\n\ncat", "one\n\nday"), ("cat", "dog", "bird?", "run jump")]
    shown = [("Sum: 12 + 30", "42"), ("day", "night", "sun?", "\n rain")]
    return [asked(name, *t) for t in shown], [asked(name, *t, system=system) for t in texts]


def assert_same_tokens_and_right_split(template: ChatTemplate, candidates: list[Row], anchors: list[Row]) -> int:
    """Check every pair; return how many share a prefix."""
    split, num_shared = SharedPrefix(template, anchors), 0
    for candidate in candidates:
        prompt = split.candidate(candidate)
        for prefix, positions, segments in split.parts(prompt):
            for j in positions:
                zero, joint = template.zero_shot(anchors[j]), template.one_shot(candidate, anchors[j])
                assert joint.targets == zero.targets
                assert joint.start > zero.start >= 1
                found = segments[j].behind(prefix)
                assert found == joint
                num_shared += bool(prefix)
    return num_shared


@pytest.mark.parametrize("tokenizer_name", TOKENIZERS)
@pytest.mark.parametrize("name", NAMES)
def test_the_scored_tokens_are_the_same_in_both_shots(name, tokenizer_name, with_template):
    tokenizer = with_template(tokenizer_name, name)
    template = ChatTemplate(tokenizer)
    for system in (None, "Be green."):
        candidates, anchors = rows(name, system)
        if system is not None and name in NO_SYSTEM_ROLE:
            with pytest.raises(UnusableRowError, match="^not_tokenizable$") as error:
                template.zero_shot(anchors[0])
            assert "System role not supported" in str(error.value.__cause__)
            continue
        assert_same_tokens_and_right_split(template, candidates, anchors)
        assert "two three" in tokenizer.decode(template.zero_shot(anchors[0]).targets)
        if system is not None:
            assert system in tokenizer.decode(template.zero_shot(anchors[0]).ids)


@pytest.mark.parametrize("tokenizer_name", TOKENIZERS)
@pytest.mark.parametrize("name", NAMES)
def test_the_completion_starts_where_trl_says(name, tokenizer_name, with_template):
    tokenizer = with_template(tokenizer_name, name)
    for anchor in rows(name, None)[1]:
        prompt = tokenizer.apply_chat_template(anchor.prompt, add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template([*anchor.prompt, *anchor.completion])["input_ids"]
        assert ChatTemplate(tokenizer).zero_shot(anchor) == Segment(whole, common_prefix_length(prompt, whole))


def test_nearly_every_template_shares_the_prefix(with_template):
    shared = []
    for name in NAMES:
        candidates, anchors = rows(name, None)
        template = ChatTemplate(with_template("demo", name))
        num_shared = assert_same_tokens_and_right_split(template, candidates, anchors)
        shared += [name] * (num_shared == len(candidates) * len(anchors))
    assert len(NAMES) >= 60
    assert len(shared) >= 0.9 * len(NAMES), sorted(set(NAMES) - set(shared))


@pytest.mark.parametrize("tokenizer_name", TOKENIZERS)
@pytest.mark.parametrize("name", TRAINING)
def test_what_the_assistant_says_is_scored(name, tokenizer_name, with_template):
    tokenizer = with_template(tokenizer_name, name)
    template = ChatTemplate(tokenizer, SOURCES[name])
    for system in (None, "Be green."):
        if system is not None and name in NO_SYSTEM_ROLE:
            continue
        candidates, anchors = rows(name, system)
        assert_same_tokens_and_right_split(template, candidates, anchors)
        for anchor in anchors:
            turns = [*anchor.prompt, *anchor.completion]
            trained = tokenizer.apply_chat_template(
                turns, chat_template=SOURCES[name], return_assistant_tokens_mask=True, return_dict=True
            )
            zero = template.zero_shot(anchor)
            masked = [i for i, inside in enumerate(trained["assistant_masks"]) if inside]
            assert (zero.ids, list(zero.positions)) == (trained["input_ids"], masked)
        said = tokenizer.decode(template.zero_shot(anchors[2]).targets)
        assert "dog" in said and "run jump" in said and "bird" not in said  # both turns of the assistant alone


@pytest.mark.parametrize("name", NAMES)
def test_the_templates_that_want_parts_are_known(name, with_template):
    """Else the list hides a template that renders strings."""
    turns = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "two three"}]
    try:
        found = with_template("demo", name).apply_chat_template(turns, tokenize=False)
    except jinja2.UndefinedError:
        assert WANTS_PARTS.get(name) == "raises"
    else:
        assert WANTS_PARTS.get(name) == (None if "two three" in found else "leaves out")


@pytest.mark.parametrize("name", list(WANTS_PARTS))
def test_text_is_given_as_parts_if_a_template_wants_them(name, with_template):
    """An answer was left out of the rendering, and only its end mark was scored."""
    template = ChatTemplate(with_template("demo", name))
    for parts in rows(name, "Be green.")[1]:
        prompt, completion = (
            [{**m, "content": m["content"][0]["text"]} for m in part] for part in (parts.prompt, parts.completion)
        )
        text = Row(prompt, completion)
        assert template.zero_shot(text) == template.zero_shot(parts)
        assert template.one_shot(text, parts) == template.one_shot(parts, text)
    with_processor = prepare_multimodal_messages([*prompt, *completion])
    assert with_processor == [*parts.prompt, *parts.completion]  # so does TRL
