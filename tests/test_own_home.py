"""The tests see nobody's caches, tokens or settings."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import constants, get_token

from tests.support.own_home import take_own_home


def test_home_and_caches_are_the_tests_own():
    home = os.environ["NUGGETS_TESTS_HOME"]
    assert str(Path.home()) == home
    assert constants.HF_HOME.startswith(home) and constants.HF_HUB_CACHE.startswith(home)
    assert get_token() is None


def test_settings_of_whoever_runs_the_tests_are_gone():
    """Behind a proxy the fake hub was not reached; a narrow terminal, a token or a launcher changed what tests saw."""
    foreign = {"http_proxy": "http://127.0.0.1:9", "HF_TOKEN": "secret", "HF_ENDPOINT": "http://127.0.0.1:9"}
    foreign |= {"COLUMNS": "40", "ACCELERATE_MIXED_PRECISION": "bf16", "WORLD_SIZE": "2", "OPENAI_BASE_URL": "x"}
    kept = {"PATH": "/bin", "PYTHONPATH": "/code", "PIP_INDEX_URL": "x", "CUDA_VISIBLE_DEVICES": "0", "LANG": "C"}
    environ = {**foreign, **kept, "HOME": "/home/somebody", "HF_HOME": "/home/somebody/hf"}
    take_own_home(environ, "/tmp/empty")
    assert kept.items() <= environ.items() and environ["HOME"] == "/tmp/empty"
    assert environ["HF_HOME"] == "/tmp/empty/hf_home" and "127.0.0.1" in environ["NO_PROXY"]
    assert not environ.keys() & (foreign.keys() - {"http_proxy"})
