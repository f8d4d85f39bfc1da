"""The mask of flex attention: who sees whom in a packed row, and no block that matters left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from nuggets_trainer.engine import flex
from nuggets_trainer.engine.attention import PackedRow, Prefix, sdpa_loop
from nuggets_trainer.engine.flex import block_mask, earlier_prefixes, flex_row
from nuggets_trainer.engine.packed import score_packed, shared_prefix_model
from nuggets_trainer.engine.packing import Piece, earlier_keys, pack, row_length
from nuggets_trainer.prompts.segment import Segment
from tests.support.architectures import VOCAB, random_model


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("tokens_per_row", [400, 5000])
def test_the_block_mask_is_that_of_the_pieces(window, tokens_per_row):
    rng = np.random.default_rng(0)
    prefixed = [(int(rng.integers(0, 300)), rng.integers(1, 200, 9).tolist()) for _ in range(4)]
    prefixes = [Prefix(length, max(lengths)) for length, lengths in prefixed]
    rows = pack(prefixed, tokens_per_row)
    assert (len(rows) > 5) == (tokens_per_row == 400)
    for pieces in rows:
        row = PackedRow(pieces, prefixes, flex_row)
        row.fill_up(row_length(row.length, tokens_per_row), flex.BLOCK)
        earlier = earlier_prefixes(row)
        kept = sum(row.prefixes[prefix].length for prefix in earlier)
        num_keys = (earlier_keys(kept) if earlier else 0) + row.length
        found = block_mask(row, earlier, num_keys, window, torch.device("cpu"))
        q, k = torch.arange(row.length)[:, None], torch.arange(num_keys)[None, :]
        mask = found.mask_mod(None, None, q, k)
        np.testing.assert_array_equal(mask.numpy(), slow_mask(row, earlier, num_keys, window))
        # Blocks: every pair that is seen lies in a block that is computed.
        computed = found.to_dense()[0, 0].bool().repeat_interleave(128, 0).repeat_interleave(128, 1)
        assert computed[: row.length, :num_keys][mask].all()
        assert not computed.all() or num_keys < 1024


def test_blocks_that_nobody_sees_are_left_out():
    """The blocks above the diagonal of a piece were computed, and what fills a row saw all of itself."""
    prefixed = [(150, [127] * 100)]
    prefixes = [Prefix(length, max(lengths)) for length, lengths in prefixed]
    row = PackedRow(pack(prefixed, 16384)[0], prefixes, flex_row)
    used = row.length
    computed = [computed_blocks(row)]
    row.fill_up(16384, flex.BLOCK)
    computed.append(computed_blocks(row))
    filler = 16384 // 128 - used // 128
    assert computed[1] - computed[0] <= 2 * filler  # at 11k tokens it was 1,763 more
    assert computed[0] < 5 * used / 128  # a piece lies in two blocks, and sees itself and two blocks of its prefix
    long_row = PackedRow([Piece(0, None, 1280, 0)], [Prefix(1280, 1)], flex_row)
    assert computed_blocks(long_row) == 10 * 11 / 2


def computed_blocks(row):
    return int(block_mask(row, [], row.length, None, torch.device("cpu")).to_dense().sum())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_only_the_last_prefix_of_a_row_is_kept():
    """Rows are packed in order: no other prefix is read again, and each took two copies in every layer."""
    model, rng = random_model("Llama"), np.random.default_rng(0)
    segments = [Segment(rng.integers(0, VOCAB, 30).tolist(), 1) for _ in range(3)]
    prefixed = [(rng.integers(0, VOCAB, 40).tolist(), segments) for _ in range(6)]
    own, kept = [], []

    def recorded(row, *arguments):
        output = flex_row(row, *arguments)
        own.append({piece.prefix for piece in row.pieces})
        kept.append({number for number, prefix in enumerate(row.prefixes) if prefix.layers})
        return output

    with torch.no_grad():
        found = score_packed(model, prefixed, 420, recorded)
        expected = score_packed(model, prefixed, 420, sdpa_loop)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert max(map(len, own)) > 2 and len(own) >= 4
    for prefixes, with_keys in zip(own, kept, strict=True):
        assert len(with_keys) <= 2 and max(prefixes) in with_keys  # that of the row before, and its own last


def slow_mask(row, earlier, num_keys, window):
    """Token by token, from the definition."""
    start = 0
    owner = [(None, None, None)] * num_keys  # (prefix, segment, position) of each key
    for prefix in earlier:
        for position in range(row.prefixes[prefix].length):
            owner[start] = (prefix, None, position)
            start += 1
    tokens = []
    for piece in row.pieces:
        first = 0 if piece.segment is None else row.prefixes[piece.prefix].length
        tokens += [(piece.prefix, piece.segment, first + t) for t in range(piece.length)]
    owner[num_keys - len(tokens) :] = tokens
    mask = np.zeros((len(tokens), num_keys), dtype=bool)
    for q, (prefix, segment, position) in enumerate(tokens):
        for k, (key_prefix, key_segment, key_position) in enumerate(owner):
            if key_prefix != prefix or key_segment not in (None, segment) or key_position > position:
                continue
            mask[q, k] = window is None or position - key_position < window
    return mask


def test_own_attention_comes_back_after_an_error():
    model = random_model("Llama")
    with pytest.raises(ZeroDivisionError), shared_prefix_model(model):
        assert model.config._attn_implementation == "nuggets"
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"


def test_attention_outside_a_packed_row_is_an_error():
    model = random_model("Llama")
    with shared_prefix_model(model), pytest.raises(LookupError):
        model(torch.tensor([[1, 2]]))


def test_a_nested_model_gets_all_its_attention_back():
    """The text model's own came back as the whole model's: training went on with other arithmetic."""
    text = {"vocab_size": 97, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = Gemma3Config(text_config=text | heads, vision_config=vision | {"image_size": 28, "patch_size": 14})
    model = Gemma3ForConditionalGeneration(config)
    model.set_attn_implementation({"": "sdpa", "text_config": "eager", "vision_config": "sdpa"})
    with shared_prefix_model(model) as implementation:
        assert implementation == "eager"
        assert model.config.text_config._attn_implementation == "nuggets"
    found = [c._attn_implementation for c in (model.config, model.config.text_config, model.config.vision_config)]
    assert found == ["sdpa", "eager", "sdpa"]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_job_has_few_shapes_of_rows_and_keys(monkeypatch):
    """A kernel is compiled for each; beyond torch's limit it would take one that holds all scores."""
    shapes = set()

    def recorded(query, key, value, **kwargs):
        shapes.add((query.shape[2], key.shape[2]))
        return torch.zeros_like(query)

    monkeypatch.setattr(flex, "flex_attention", recorded)
    model, rng = random_model("Llama"), np.random.default_rng(0)
    segments = [Segment(rng.integers(0, VOCAB, n).tolist(), 1) for n in rng.integers(20, 200, 100)]
    with torch.no_grad():
        for _ in range(25):
            prefix = rng.integers(0, VOCAB, int(rng.integers(50, 600))).tolist()
            score_packed(model, [(prefix, segments[: int(rng.integers(1, 100))])], 2048, flex_row)
    assert 2 < len(shapes) <= 9
    assert all(q % 128 == 0 and (k - q) % 128 == 0 for q, k in shapes)
