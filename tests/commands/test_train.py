"""The command line and the config files of the main job."""

from __future__ import annotations

import pytest

from tests.support.launch import ROOT


def test_every_config_is_parsed_by_the_recipe(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import compare
    import train

    configs = sorted((ROOT / "configs").glob("*.yaml"))
    for path in configs:
        recipe = compare if "recipes/compare.py" in path.read_text() else train
        parsed = recipe.parse(["--config", str(path), "--use_cpu", "--bf16", "false"])
        script, args, model, nuggets = parsed[:4]
        assert script.dataset_name and model.model_name_or_path and args.output_dir.startswith("outputs/")
        text = path.read_text()
        assert text.startswith("#") and f"--config configs/{path.name}" in text  # purpose and launch line on top
        assert nuggets.selection_rule
    assert len(configs) >= 5


def test_without_arguments_the_recipe_is_the_demo(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import train

    script, _, model, nuggets = train.parse(["--top_k", "7", "--use_cpu"])
    assert model.model_name_or_path == "nuggets-demo/model" and script.dataset_name == "nuggets-demo/pool"
    assert nuggets.selection_rule == ("top_k", 7)
    with pytest.raises(ValueError, match="needs --dataset_name"):
        train.parse(["--model_name_or_path", "nuggets-demo/model", "--use_cpu", "--bf16", "false"])
    with pytest.raises(ValueError, match="--demo brings its own .* drop --dataset_name, --model_name_or_path"):
        train.parse(["--demo", "--model-name-or-path", "m", "--dataset_name=d"])


@pytest.mark.parametrize("spelling", ["--top_k", "--top-k"])
def test_an_option_replaces_its_partners_in_the_file(spelling, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import train

    config = ["--config", str(ROOT / "configs" / "alpaca_kmeans100.yaml"), "--use_cpu", "--bf16", "false"]
    *_, nuggets = train.parse([*config, spelling, "100", "--anchors=anchors.jsonl"])
    assert nuggets.selection_rule == ("top_k", 100)
    assert nuggets.anchors == "anchors.jsonl" and nuggets.num_anchors is None and nuggets.template == "nuggets"
