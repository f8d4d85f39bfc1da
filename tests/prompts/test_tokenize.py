"""Texts get the ids that `tokenizer(text)` gives, by the faster way too."""

from __future__ import annotations

import itertools
import json
import random
import re
import string

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nuggets_trainer.prompts.nuggets import NuggetsTemplate
from nuggets_trainer.prompts.plain import PlainTemplate
from nuggets_trainer.prompts.shared_prefix import SharedPrefix
from nuggets_trainer.prompts.tokenize import _PATTERNS, TextEncoder, _cuts_alike, _pattern_of, _Pieces, token_ids
from tests.support.renderings import alpaca
from tests.support.rows import alpaca_rows

NAMES = ["demo", "models/tiny-llama-icl", "tokenizers/gpt2", "tokenizers/minimind", "tokenizers/mistral-v3"]
TEXTS = [
    "A red cat.",
    " two\n\n  lines ",
    "</s> <|im_end|>",
    "\u00fc\u4f60\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
]


def asked(tokenizer, text: str, special: bool = False) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_a_call(name, loaded):
    tokenizer = loaded(name)
    for text in [*TEXTS, *map(str, alpaca_rows(5, seed=2))]:
        for special in (False, True):
            assert token_ids(tokenizer, text, special) == asked(tokenizer, text, special)


def test_a_limit_left_by_another_call_cuts_nothing(loaded):
    """A collator that truncates sets its limit on the tokenizer, and a tokenizer.json may have one."""
    tokenizer = loaded("demo")
    wanted = asked(tokenizer, "one two three")
    tokenizer("one two three", truncation=True, max_length=2, padding="max_length")
    tokenizer.backend_tokenizer.enable_truncation(2)
    assert token_ids(tokenizer, "one two three", add_special_tokens=False) == wanted


def test_special_tokens_are_split_where_the_tokenizer_splits(loaded):
    tokenizer = loaded("demo")
    whole = token_ids(tokenizer, "</s>", add_special_tokens=False)
    tokenizer.split_special_tokens = True
    assert token_ids(tokenizer, "</s>", add_special_tokens=False) == asked(tokenizer, "</s>") != whole


def test_a_tokenizer_of_the_users_is_called(loaded):
    class Own(PreTrainedTokenizerFast):
        def _encode_plus(self, *args, **kwargs):
            return {"input_ids": [7]}

    own = Own(tokenizer_object=loaded("demo").backend_tokenizer)
    assert token_ids(own, "red", add_special_tokens=False) == [7]


def test_texts_tokenized_ahead_have_the_same_ids(loaded):
    tokenizer = loaded("demo")
    encoder = TextEncoder(tokenizer)
    encoder.tokenize_ahead([*TEXTS, TEXTS[0], ""])
    assert [encoder.encode(text) for text in [*TEXTS, TEXTS[0], ""]] == [
        asked(tokenizer, t) for t in [*TEXTS, TEXTS[0], ""]
    ]
    encoder.tokenize_ahead(["red", "\ud800"])  # one text that no tokenizer takes
    assert encoder.encode("red") == asked(tokenizer, "red")


@pytest.mark.parametrize("kind", [PlainTemplate, NuggetsTemplate])
def test_rows_tokenized_ahead_are_rendered_alike(kind, loaded, monkeypatch):
    split = SharedPrefix(kind(loaded("demo")), [alpaca(row) for row in alpaca_rows(3, seed=1)])
    rows = [alpaca(row) for row in alpaca_rows(6, seed=4)]
    wanted = [split.candidate(alpaca(row)) for row in alpaca_rows(6, seed=4)]
    split.tokenize_ahead(rows)
    monkeypatch.setattr("nuggets_trainer.prompts.tokenize.token_ids", None)  # nothing is left to tokenize
    assert [split.candidate(row) for row in rows] == wanted


BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
KINDS = {
    "GPT-2": BYTE_LEVEL,
    "single digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL]),
}
for number, pattern in enumerate(_PATTERNS):
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    KINDS[f"split {number}"] = pre_tokenizers.Sequence([split, whole])


def random_texts(number: int) -> list[str]:
    """Return ASCII texts in which all that a pattern tells apart meets: letters, digits, marks, all white space."""
    draw = random.Random(0)
    words = ["'s", "'LL", "don't", "word", " word", "12345", "\n", "\n\n", "  ", "\t", "\r\n", *map(chr, range(128))]
    words += string.printable
    return ["".join(draw.choices(words, k=draw.randrange(1, 40))) for _ in range(number)]


def with_kind(tokenizer, kind: str) -> Tokenizer:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.NFC() if kind == "split 1" else None
    backend.pre_tokenizer = KINDS[kind]
    return backend


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_have_the_ids_of_the_whole_text(kind, loaded):
    """Each piece is tokenized once, and looked up in later texts."""
    backend = with_kind(loaded("tokenizers/gpt2"), kind)
    texts = list(dict.fromkeys(random_texts(300)))
    found, left = _Pieces(backend).encode([*texts, "\u00e9t\u00e9", "a<|endoftext|>b"])
    assert left == ["\u00e9t\u00e9", "a<|endoftext|>b"] and list(found) == texts
    assert list(found.values()) == [backend.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_cut_where_the_tokenizer_does(kind, loaded):
    """Equal ids do not prove it: a small vocabulary gives the same ids for other cuts."""
    backend = with_kind(loaded("demo"), kind)
    pattern = _pattern_of(backend)
    texts = [*random_texts(2000), "a" * 5000, " " * 5000 + "a", "'" * 999, "1" * 999, "\r\n" * 999, "\t 1" * 999]
    assert [text for text in texts if not _cuts_alike(backend, pattern, text)] == []
    pieces = set(itertools.chain.from_iterable(map(re.compile(pattern).findall, texts)))
    assert [piece for piece in pieces if len(backend.pre_tokenizer.pre_tokenize_str(piece)) != 1] == []


def with_other_ids(backend: Tokenizer) -> models.BPE:
    """Return the model of a tokenizer with the ids in reverse: its size and its settings are the same."""
    state = json.loads(backend.to_str())["model"]
    vocab = {token: len(state["vocab"]) - 1 - number for token, number in state["vocab"].items()}
    return models.BPE(vocab, [tuple(merge) for merge in state["merges"]])


@pytest.mark.parametrize("change", ["normalizer", "pre_tokenizer", "model", "dropout", "ignore_merges"])
def test_a_tokenizer_changed_in_place_is_asked_again(change, loaded):
    """Pieces from before the change were looked up, and gave other ids than the tokenizer."""
    backend = with_kind(loaded("tokenizers/gpt2"), "GPT-2")
    pieces = _Pieces(backend)
    pieces.encode(["Red roses"])
    assert pieces.are_of(backend)
    new = {"normalizer": normalizers.Lowercase(), "pre_tokenizer": KINDS["single digits"]}
    new["model"] = with_other_ids(backend)
    if change in new:
        setattr(backend, change, new[change])
    else:
        setattr(backend.model, change, {"dropout": 0.5, "ignore_merges": True}[change])
    assert not pieces.are_of(backend)


def test_a_text_that_a_tokenizer_fails_on_is_left(loaded):
    """A vocabulary without some bytes, whose unknown token is missing too, ended the run."""
    backend = Tokenizer(models.BPE({"a": 0, "b": 1}, [], unk_token="?"))
    backend.pre_tokenizer = BYTE_LEVEL
    assert _Pieces(backend).encode(["ab", "x"]) == ({"ab": [0, 1]}, ["x"])


def test_added_tokens_that_nfc_makes_ascii_are_not_cut(loaded):
    backend = with_kind(loaded("tokenizers/gpt2"), "split 1")
    backend.add_tokens([AddedToken("\u212a d", normalized=True)])  # the sign for kelvin becomes a K
    assert _Pieces(backend).encode(["aK d"]) == ({}, ["aK d"])


def test_other_tokenizers_cut_their_texts_themselves(loaded):
    mistral = loaded("tokenizers/mistral-v3").backend_tokenizer
    backend = with_kind(loaded("tokenizers/gpt2"), "GPT-2")
    backend.normalizer = normalizers.Lowercase()
    random_merges = with_kind(loaded("tokenizers/gpt2"), "GPT-2")
    random_merges.model.dropout = 0.5
    for own in (mistral, backend, random_merges):
        assert _Pieces(own).encode(["red", "a b"]) == ({}, ["red", "a b"])


def test_special_tokens_added_later_are_not_cut(loaded):
    tokenizer = loaded("models/tiny-llama-icl")
    encoder = TextEncoder(tokenizer)
    encoder.tokenize_ahead(["a [NEW] b"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[NEW]"]})
    encoder.tokenize_ahead(["a [NEW] b"])
    assert encoder.encode("a [NEW] b") == asked(tokenizer, "a [NEW] b")
