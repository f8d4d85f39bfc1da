"""The command line and a YAML file give the same arguments; the command line wins."""

from __future__ import annotations

from nuggets_trainer.cli import main
from nuggets_trainer.commands import plan, score


def test_one_yaml_serves_plan_and_score(tmp_path):
    """What does nothing in one of them is no mistake there."""
    (tmp_path / "job.yaml").write_text("reselect: epoch\nscore_dir: s\ndataset_name: d\nmodel_name_or_path: m\n")
    argv = ["--config", str(tmp_path / "job.yaml"), "--signal_check", "false", "--group_by", "x"]
    argv += ["--group_quota", "equal"]
    for command in (plan, score):
        config = command.parse(argv)[-1]
        assert config.reselect == "no" and config.group_quota == "equal"


def test_help_names_the_config_that_sets_a_default(capsys):
    assert main(["score", "--config", "alpaca_kmeans100", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "[nuggets, from alpaca_kmeans100]" in page and "[huggyllama/llama-7b, from alpaca_kmeans100]" in page
