"""The tests see nobody's caches, tokens or settings."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import constants, get_token


def test_home_and_caches_are_the_tests_own():
    home = os.environ["NUGGETS_TESTS_HOME"]
    assert str(Path.home()) == home
    assert constants.HF_HOME.startswith(home) and constants.HF_HUB_CACHE.startswith(home)
    assert get_token() is None
