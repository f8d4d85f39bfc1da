"""Tokenizers of the demo and of real models."""

from __future__ import annotations

import copy
import functools

import pytest
from transformers import AutoTokenizer

from tests.support.launch import SHARED


@functools.cache
def _load(path: str):
    return AutoTokenizer.from_pretrained(path)


@pytest.fixture()
def loaded(request, tokenizer):
    """Load a tokenizer by name: the demo's, or a real one beside the project."""

    def load(name: str):
        if name.startswith("demo"):
            found = copy.deepcopy(tokenizer)
            if name == "demo without BOS":
                found.bos_token = None
            return found
        request.getfixturevalue("shared")
        return _load(str(SHARED / name))

    return load
