"""A rendering shows what its rows say, under every chat template of TRL; what it does not show is dropped or told."""

from __future__ import annotations

import copy

import pytest

from nuggets_trainer.data.row import Message, Row, UnusableRowError
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.plain import PlainTemplate
from nuggets_trainer.prompts.segment import Remark, Segment, stored_key
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.prompts.shown import hidden_pieces, pieces_of
from tests.support.launch import ROOT
from tests.support.trl_templates import SOURCES
from tests.support.what_is_shown import table, table_of_tokenizers

# Templates that leave reasoning out of earlier turns and show it in the last one.
CUT_EARLIER = ["glm4moe", "lfm2_2_5", "nemotron_3_nano", "qwen3", "qwen3_5_think", "qwen3_6", "glm4moe_training"]
CALLS = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]


@pytest.fixture()
def template(tokenizer):
    def make(name: str) -> ChatTemplate:
        found = copy.deepcopy(tokenizer)
        found.chat_template = SOURCES[name]
        return ChatTemplate(found, SOURCES[name] if name.endswith("_training") else None)

    return make


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def answer(text: str, **fields: object) -> Message:
    return {"role": "assistant", "content": text, **fields}


def thinking(thought: str, text: str = "42", question: str = "What is 17 plus 25?") -> Row:
    return Row([user(question)], [answer(f"<think>\n{thought}\n</think>\n\n{text}")])


ANCHOR = Row([user("What is 5 plus 5?")], [answer("10")])


def written(template: ChatTemplate, segment: Segment) -> str:
    return template._tokenizer.decode(segment.ids)


@pytest.mark.parametrize("name", CUT_EARLIER)
def test_a_candidates_reasoning_is_shown_as_trained(name, template):
    """Sound and garbled reasoning got the same score: no trace of either was in the prompt."""
    chat = template(name)
    sound, garbled = (chat.one_shot(thinking(thought), ANCHOR) for thought in ("Carry one.", "zq xv zq"))
    assert sound.ids != garbled.ids
    assert sound.targets == garbled.targets == chat.zero_shot(ANCHOR).targets
    assert Remark.AS_TRAINED in sound.remarks
    text, alone = written(chat, sound), written(chat, chat.zero_shot(thinking("Carry one.")))
    upto = alone.index("42") + len("42")
    assert text.startswith(alone[:upto])  # the candidate is what training sees


def test_reasoning_in_its_own_field_is_shown(template):
    chat = template("qwen3")
    row = Row([user("What is 17 plus 25?")], [answer("42", reasoning_content="Carry one.")])
    assert chat.one_shot(row, ANCHOR).ids == chat.one_shot(thinking("Carry one."), ANCHOR).ids


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "deepseekv3"])
def test_reasoning_that_training_misses_is_told(name, template):
    segment = template(name).one_shot(thinking("Carry one."), ANCHOR)
    assert segment.remarks == {Remark.REASONING_LEFT_OUT}


@pytest.mark.parametrize("name", ["qwen3", "llama3", "qwen2_5", "nemotron_3_nano", "gemma3", "qwen2_5_vl"])
def test_lists_of_text_parts_are_shown_as_text(name, template):
    """Qwen3's template wrote nothing of them, and Llama 3's what Python prints."""
    chat = template(name)
    parts = [{"type": "text", "text": "What is 5"}, {"type": "text", "text": " plus 5?"}]
    row = Row(
        [{"role": "user", "content": parts}], [{"role": "assistant", "content": [{"text": "10", "type": "text"}]}]
    )
    assert chat.zero_shot(row).targets == chat.zero_shot(ANCHOR).targets  # the answer is the same
    text = written(chat, chat.one_shot(row, row))
    assert text.count("plus 5?") == 2 and "'type'" not in text


@pytest.mark.parametrize("name", ["llama3", "phi3", "cohere", "lfm2", "deepseek_r1_distill"])
def test_calls_that_are_not_shown_drop_the_row(name, template):
    """The end mark alone was scored."""
    row = Row([user("Weather in Oslo?")], [answer("", tool_calls=CALLS)])
    with pytest.raises(UnusableRowError, match="^not_shown$"):
        template(name).zero_shot(row)
    with pytest.raises(UnusableRowError, match="^not_shown$"):
        template(name).one_shot(row, ANCHOR)


@pytest.mark.parametrize("name", ["qwen3", "llama3_1", "glm4moe", "gptoss", "gemma4"])
def test_calls_that_are_shown_are_scored(name, template):
    row = Row([user("Weather in Oslo?")], [answer("", tool_calls=CALLS)])
    chat = template(name)
    assert "weather" in chat._tokenizer.decode(chat.zero_shot(row).targets)


def test_a_result_that_is_not_shown_drops_the_row(template):
    row = Row(
        [user("Weather?"), answer("Let me look.", tool_calls=CALLS), {"role": "tool", "content": "Rain."}],
        [answer("Wet.")],
    )
    with pytest.raises(UnusableRowError, match="^not_shown$"):
        template("phi3").one_shot(row, ANCHOR)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_plain_conversation_has_no_remark(name, template):
    """Whatever rendered right before keeps its tokens and its key in the store."""
    chat = template(name)
    row = Row([user("Say red?")], [answer("two three")])
    zero, one = chat.zero_shot(row), chat.zero_shot(row) if name.startswith("llava") else chat.one_shot(row, ANCHOR)
    assert zero.remarks == one.remarks == frozenset()
    assert stored_key(row.key, one.remarks) == row.key


def test_the_anchors_question_is_not_scored(loaded):
    """Mistral's template writes a system message into the last turn of the prompt alone."""
    tokenizer = copy.deepcopy(loaded("demo"))
    tokenizer.chat_template = (
        "{% set sys = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|> "
        "{% if loop.last and m.role == 'user' %}{{ sys }} {% endif %}{{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}<|assistant|> {% endif %}"
    )
    chat = ChatTemplate(tokenizer)
    row = Row([{"role": "system", "content": "north"}, user("red?")], [answer("two three")])
    segment = chat.zero_shot(row)
    assert tokenizer.decode(segment.targets).split() == ["two", "three"]
    assert segment.remarks == {Remark.OWN_START, Remark.SYSTEM_LEFT_OUT}
    assert stored_key(row.key, segment.remarks) != row.key


def test_a_middle_anchor_of_another_kind_is_checked(template):
    """It passed a look at the first and the last anchor."""
    chat = template("qwen3")
    result = Row([user("<tool_response>\nred\n</tool_response>")], [answer("blue")])
    anchors = [ANCHOR, result, Row([user("What is 6 plus 6?")], [answer("12")])]
    split = SharedPrefix(chat, anchors)
    candidates = [result, thinking("Carry one."), ANCHOR]
    for candidate in candidates:
        prompt = split.candidate(candidate)
        for prefix, positions, segments in split.parts(prompt):
            for j in positions:
                found = segments[j].behind(prefix)
                assert found == chat.one_shot(candidate, anchors[j])


def test_the_error_says_what_not_shown_means(template):
    row = Row([user("Weather in Oslo?")], [answer("", tool_calls=CALLS)])
    with pytest.raises(ValueError, match=r"not_shown 1.*`chat_template_path`"):
        AnchorSet(template("llama3"), [row], [None], None)


def test_calls_in_plain_text_drop_the_row(tokenizer):
    row = Row([user("Weather?")], [answer("Let me look.", tool_calls=CALLS)])
    with pytest.raises(UnusableRowError, match="^not_shown$"):
        PlainTemplate(tokenizer).zero_shot(row)


def test_an_older_call_is_no_answer_without_words(template):
    """OpenAI's older files have `function_call`, which templates leave out: such rows were scored without it."""
    older = [user("Weather in Oslo?"), answer("", function_call=CALLS[0]["function"]), user("Now?")]
    with pytest.raises(UnusableRowError, match="^not_shown$"):
        template("qwen2_5").one_shot(Row(older, [answer("Rain.")]), Row([user("Red?")], [answer("Yes.")]))


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Q1 R1 A1", []),
        ("Q1 A1", ["R1"]),
        ("Q1 A1 Q2 R1 A2", ["R1"]),  # the words of another turn
        ("A1 R1 Q1", ["R1", "A1"]),
    ],
)
def test_pieces_are_found_in_order(text, hidden):
    pieces = pieces_of([user("Q1"), answer("<think>R1</think>A1")])
    assert [piece.text for piece in hidden_pieces(text, pieces)] == hidden


TEXT = "Is 1 < 2 & 'x' > \"y\"?\n\n  é: [1,\t2]"
REWRITES = {
    "m.content": True,
    "m.content | trim | upper | lower": False,  # other letters
    "m.content.split() | join(' ')": True,
    "m.content | replace('\n', ' ')": True,
    "m.content | tojson": True,
    "m.content | tojson(ensure_ascii=true)": True,
    "m.content | e": True,
    "m.content | e | replace('\n', '')": True,
    "m.content | indent(4)": True,
    "m.content[:10]": False,
    "m.content | replace('<', '(')": False,
}


@pytest.mark.parametrize("written", REWRITES)
def test_a_text_may_be_spelled_in_another_way(written, tokenizer):
    """A template that escapes HTML dropped each row with a sign of it; one that changes letters or cuts still does."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<|{{ m.role }}|>{{ " + written + " }}</s>\n{% endfor %}"
    chat = ChatTemplate(tokenizer)
    row = Row([user(TEXT)], [answer(TEXT)])
    if REWRITES[written]:
        assert chat.zero_shot(row).remarks == chat.one_shot(row, row).remarks == frozenset()
        return
    with pytest.raises(UnusableRowError, match="^not_shown$"):
        chat.zero_shot(row)


def test_something_may_stand_between_parts(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}({{ part.text }}){% endfor %}{% endif %}</s>{% endfor %}"
    )
    parts = [{"type": "text", "text": "red"}, {"type": "text", "text": "blue"}]
    row = Row([{"role": "user", "content": parts}], [{"role": "assistant", "content": parts}])
    assert written(ChatTemplate(tokenizer), ChatTemplate(tokenizer).zero_shot(row)).count("(blue)") == 2


def logged(title: str) -> list[str]:
    """Lines of the table in a section of the log."""
    page = (ROOT / "docs" / "log" / "chat_templates.md").read_text(encoding="utf-8")
    section = page.partition(f": {title}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")]


def test_the_table_in_the_log_is_what_templates_show():
    lines = table()
    assert len(lines) == len(SOURCES) + 2
    assert logged("the templates of TRL") == lines


@pytest.mark.usefixtures("shared")
def test_the_table_of_tokenizers_is_what_they_show():
    lines = table_of_tokenizers()
    assert len(lines) == 2 + 2
    assert logged("the templates of two tokenizers") == lines
