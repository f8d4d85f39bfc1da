"""`--help` shows each option once, below the title of its group."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields
from importlib import import_module

import pytest
from trl import SFTConfig

from nuggets_trainer.cli import main
from nuggets_trainer.commands.arguments import (
    OutputArguments,
    PlanArguments,
    ScorerArguments,
    SelectArguments,
    ShardArguments,
    recipe_parser,
)
from nuggets_trainer.commands.parser import COMMON_IN_TRAINING, make_parser
from nuggets_trainer.comparison.options import CompareArguments
from nuggets_trainer.config import NuggetsConfig
from nuggets_trainer.config.places import PoolArguments
from nuggets_trainer.config.row_options import RowOptions
from tests.support.readability import PREPOSITIONS


@pytest.mark.parametrize("command", ["plan", "score", "select", "diff", "report", "train"])
def test_help_shows_each_option_once_with_its_default(command, capsys):
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert "exit codes:" in page and "examples:" in page
    assert "(default: None)" not in page and "[default: None]" not in page
    assert "--score-dir" not in page  # one spelling of each


@pytest.mark.parametrize("command", ["train", "compare"])
def test_most_of_trls_options_are_in_the_long_help_alone(command, capsys):
    """`nuggets train --help` was a thousand lines, two thirds of them SFTConfig's."""
    pages = {}
    for option in ("--help", "--help_all"):
        assert main([command, option]) == 0
        pages[option] = capsys.readouterr().out
    listed = {option: re.findall(r"^  --(\w+)", page, flags=re.MULTILINE) for option, page in pages.items()}
    names = {field.name for field in fields(SFTConfig)}
    spelled = {
        option: {name if name in names else name.removeprefix("no_") for name in listed[option]} for option in pages
    }
    hidden = spelled["--help_all"] - spelled["--help"]
    assert "optim_args" in hidden and {"learning_rate", "bf16", "top_k", "lora_r"} <= set(listed["--help"])
    assert hidden <= names and len(hidden) > 100
    assert set(COMMON_IN_TRAINING) <= names
    assert f"`nuggets {command} --help_all` lists {len(hidden)} more options" in " ".join(pages["--help"].split())
    assert "--help_all` lists" not in pages["--help_all"]


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


ROWS, MODEL, RULE, ANCHORS = "\nrows (", "\nmodel and adapter (", "\nwhich rows are kept", "\nanchors:"
IN_ORDER = {
    "score": [ROWS, "\nthe model that scores", RULE, ANCHORS, "\nhow training reads", "\nparts of a pool", "\noutput"],
    "select": ["\nstored scores", RULE, ROWS, "\nhow training reads", "\noutput"],
    "train": [ROWS, MODEL, RULE, ANCHORS, "\nselection during", "\ntraining ("],
    "compare": [ROWS, MODEL, "\nthe comparison", RULE, ANCHORS, "\noutput", "\ntraining ("],
}


@pytest.mark.parametrize("command", IN_ORDER)
def test_rows_and_model_come_first_in_help(command, capsys):
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    places = [page.index(title) for title in IN_ORDER[command]]
    assert places == sorted(places)


def test_help_of_the_pool_is_that_of_every_command(capsys):
    """TRL's text spoke of an option `datasets` that no command has."""
    texts = set()
    for command in ("score", "train"):
        assert main([command, "--help"]) == 0
        page = capsys.readouterr().out
        texts.add(page[page.index("  --dataset_name") : page.index("  --dataset_config")])
        assert "`datasets` is provided" not in page and "ignore_bias_buffers" not in page
    assert len(texts) == 1
    assert recipe_parser().parse_args(["--ignore_bias_buffers", "true"]).ignore_bias_buffers  # TRL's YAML may have it


def test_a_list_is_shown_as_it_is_typed():
    parser = make_parser([CompareArguments], "nuggets compare", "")
    assert "[default: 0.1]" in " ".join(parser.format_help().split())


@pytest.mark.parametrize("command", ["plan", "score", "train", "compare", "inspect"])
def test_the_pool_may_be_the_first_word(command):
    module = import_module(f"nuggets_trainer.commands.{command}")
    words = ["mine.jsonl", "--model_name_or_path", "m"]
    if command in ("train", "compare"):
        words += ["--output_dir", "out", "--bf16", "false", "--eval_dataset_name", "heldout.jsonl"]
    if command in ("plan", "score"):
        words += ["--score_dir", "scores"]
    assert "mine.jsonl" in [getattr(part, "dataset_name", None) for part in module.parse(words)]
    with pytest.raises(
        ValueError, match=r"first word 'mine.jsonl' is the value of --dataset_name, which is given too"
    ):
        module.parse([*words, "--dataset-name=other.jsonl"])


def test_a_help_begins_with_a_noun_or_a_verb():
    ours = [PoolArguments, ScorerArguments, ShardArguments, PlanArguments, SelectArguments, OutputArguments]
    helps = {f.name: f.metadata["help"] for each in [*ours, RowOptions, NuggetsConfig] for f in fields(each)}
    assert len(helps) > 35
    first = {name: text.split()[0] for name, text in helps.items()}
    wrong = PREPOSITIONS | {"how", "what", "when", "where", "whether", "which", "why"}
    assert {name: word for name, word in first.items() if word.lower() in wrong} == {}
