"""`--help` shows each option once, below the title of its group."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields
from importlib import import_module

import pytest

from nuggets_trainer.cli import main
from nuggets_trainer.commands.arguments import (
    OutputArguments,
    PlanArguments,
    PoolArguments,
    ScorerArguments,
    SelectArguments,
    ShardArguments,
)
from nuggets_trainer.config import NuggetsConfig
from nuggets_trainer.config.row_options import RowOptions
from tests.support.readability import PREPOSITIONS


@pytest.mark.parametrize("command", ["plan", "score", "select", "diff", "report", "train"])
def test_help_shows_each_option_once_with_its_default(command, capsys):
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert "exit codes:" in page and "examples:" in page
    assert "(default: None)" not in page and "[default: None]" not in page
    assert "--score-dir" not in page  # one spelling of each


def test_help_lists_the_options_that_act(capsys):
    listed = {}
    for command in ("plan", "score", "select", "train"):
        assert main([command, "--help"]) == 0
        listed[command] = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, flags=re.MULTILINE))
    training = {"reselect", "reselect_steps", "match_full_steps"}
    assert training <= listed["train"] and not training & (listed["score"] | listed["plan"] | listed["select"])
    assert "response_field" not in listed["score"]  # needs a `formatting_func`
    assert listed["score"] - listed["plan"] == {
        "combine_anchor_sets",
        "group_quota",
        "signal_check",
        "stop_if_unreliable",
        "shard",
    }
    assert {"top_k", "anchors", "score_dir", "pool_size"} <= listed["score"]


@pytest.mark.parametrize("command", ["plan", "score", "select", "train"])
def test_every_option_is_below_exactly_one_title(command):
    parser = getattr(import_module(f"nuggets_trainer.commands.{command}"), f"make_{command}_parser")()
    titles = Counter()
    for group in parser._action_groups:
        titles.update(action.dest for action in group._group_actions if group.title != "options")
    untitled = {action.dest for action in parser._actions} - set(titles)
    assert untitled == {"help", "config"}
    spelled_twice = {action.dest for action in parser._actions if action.option_strings[0].startswith("--no_")}
    assert {name for name, count in titles.items() if count > 1} <= spelled_twice


def test_the_options_of_trl_come_last(capsys):
    assert main(["train", "--help"]) == 0
    page = capsys.readouterr().out
    places = [
        page.index(title) for title in ("\nrows (", "\nwhich rows are kept", "\nselection during", "\ntraining (")
    ]
    assert places == sorted(places)


def test_a_help_begins_with_a_noun_or_a_verb():
    ours = [PoolArguments, ScorerArguments, ShardArguments, PlanArguments, SelectArguments, OutputArguments]
    helps = {f.name: f.metadata["help"] for each in [*ours, RowOptions, NuggetsConfig] for f in fields(each)}
    assert len(helps) > 35
    first = {name: text.split()[0] for name, text in helps.items()}
    wrong = PREPOSITIONS | {"how", "what", "when", "where", "whether", "which", "why"}
    assert {name: word for name, word in first.items() if word.lower() in wrong} == {}
