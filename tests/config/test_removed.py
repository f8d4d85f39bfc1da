"""An option that is gone is refused with the reason, wherever it is given; what was stored with it is read."""

from __future__ import annotations

import dataclasses
import inspect
import pickle

import pytest

from nuggets_trainer.cli import main
from nuggets_trainer.config import NuggetsConfig
from nuggets_trainer.config.removed import REMOVED

SCORE = ["score", "--model_name_or_path", "m", "--dataset_name", "d", "--score_dir", "s"]


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_option_is_refused_with_the_reason(name, tmp_path, capsys):
    assert name not in NuggetsConfig.__dataclass_fields__
    with pytest.raises(ValueError, match=rf"^`{name}` was removed in 0\.2: .*\. Delete it\.$"):
        NuggetsConfig(top_k=5, **{name: 1})
    (tmp_path / "old.yaml").write_text(f"top_k: 5\n{name}: 1\n")
    for words in (["--config", str(tmp_path / "old.yaml")], [f"--{name}", "1"], [f"--{name.replace('_', '-')}=1"]):
        assert main([*SCORE, *words]) == 2
        assert f"`{name}` {REMOVED[name]}" in capsys.readouterr().err


def test_an_unknown_option_is_still_a_type_error():
    with pytest.raises(TypeError, match="top_q"):
        NuggetsConfig(top_q=5)


def test_the_signature_names_the_options():
    """Editors show it."""
    assert list(inspect.signature(NuggetsConfig).parameters) == [f.name for f in dataclasses.fields(NuggetsConfig)]


def test_a_config_can_be_copied_and_pickled():
    config = NuggetsConfig(top_k=5)
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, top_k=6) == NuggetsConfig(top_k=6)
