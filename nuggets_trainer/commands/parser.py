"""Parsers over dataclasses, with a help that shows each option once, below the title of its group.

Names, types and defaults are those of the dataclasses' fields, as `trl.TrlParser` reads them.
"""

from __future__ import annotations

import argparse
import difflib
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from nuggets_trainer.config.option_group import option_groups
from nuggets_trainer.config.removed import refuse_removed

if TYPE_CHECKING:
    from trl import TrlParser

# Dataclasses of the package bring their titles with them.
TITLES_OF_TRL = {
    "ModelConfig": "model and adapter (names and defaults of trl.ModelConfig)",
    "SFTConfig": "training (names and defaults of trl.SFTConfig, which extends transformers.TrainingArguments)",
}

# Order of the groups in `--help`: what every call needs, the options of the program, those of selection, what few
# change. The hundreds of SFTConfig come last. Dataclasses of one place keep the order in which they are given.
OWN_OPTIONS = 2
PLACE_IN_HELP = {
    "SelectArguments": 0,
    "RuleOptions": 0,
    "PoolArguments": 0,
    "RecipeArguments": 0,
    "ScorerArguments": 1,
    "ModelConfig": 1,
    "NuggetsConfig": 3,
    "RowOptions": 4,
    "ShardArguments": 5,
    "OutputArguments": 5,
    "SFTConfig": 6,
}


# Options of SFTConfig that a first run sets; the short help shows these alone.
COMMON_IN_TRAINING = (
    *("output_dir", "num_train_epochs", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("bf16", "use_cpu", "seed", "max_length", "packing", "eval_strategy", "save_strategy", "save_steps"),
    *("logging_steps", "report_to", "resume_from_checkpoint", "push_to_hub"),
)


# Names that other programs have for options of this one. The most similar name is another option.
CALLED_ELSEWHERE = {
    "model": "model_name_or_path",
    "base_model": "model_name_or_path",
    "dataset": "dataset_name",
    "data": "dataset_name",
    "pool": "dataset_name",
    "output": "output_dir",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each option once, in one spelling, with its default and the file that the default comes from."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = action.option_strings if action.dest in ("help", "version") else action.option_strings[:1]
        value = self._format_args(action, _metavar(action)) if action.nargs != 0 else ""
        return f"{', '.join(names)} {value}".rstrip()

    def _split_lines(self, text: str, width: int) -> list[str]:
        # As argparse does, but without breaks inside names such as `nuggets-demo/model`.
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return _metavar(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        source = getattr(action, "source", None)
        if source is not None:
            return f"{text} [{_shown(action.default)}, from {source}]"
        if action.default in (None, argparse.SUPPRESS) or action.nargs == 0:
            return text
        if "Default: " in text or "default: " in text:  # the help explains it
            return text
        return f"{text} [default: {_shown(action.default)}]"


class TrainingHelp(argparse.Action):
    """Prints the help; `--help` leaves out most options of SFTConfig, which `--help_all` shows."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, _: Any, __: Any, option_string: str | None = None) -> None:
        """Print, and end the program."""
        if option_string != "--help_all":
            _hide_uncommon(parser)
        parser.print_help()
        parser.exit()


class Parser(argparse.ArgumentParser):
    """A parser that names the option that may have been meant in place of an unknown one."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, as `argparse` does."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(unknown_options(unknown, self))
        return parsed


def unknown_options(words: list[str], parser: argparse.ArgumentParser) -> str:
    """Say which words of a command line are no options of a parser, and what may have been meant.

    Raises:
        ValueError: if the first of them is an option that was removed.
    """
    options: list[str] = []
    for action in parser._actions:
        options += [option.removeprefix("--") for option in action.option_strings]
    name = words[0].split("=")[0].removeprefix("--")
    refuse_removed([name.replace("-", "_")])
    near = nearest_option(name, options)
    hint = "" if near is None else f" Did you mean --{near}?"
    return f"There is no option {' '.join(words)}.{hint} `--help` lists the options."


def nearest_option(name: str, known: Collection[str]) -> str | None:
    """Return the option that may have been meant by an unknown one; None if there is none.

    Example:
        >>> known = ["model_name_or_path", "scorer_model", "top_fraction"]
        >>> nearest_option("top_frction", known), nearest_option("model", known), nearest_option("xyz", known)
        ('top_fraction', 'model_name_or_path', None)
    """
    elsewhere = CALLED_ELSEWHERE.get(name.replace("-", "_"))
    if elsewhere in known:
        return elsewhere
    near = difflib.get_close_matches(name, known, n=1)
    return near[0] if near else None


def make_parser(
    dataclasses: Iterable[Any],
    prog: str,
    description: str,
    usage: str | None = None,
    epilog: str = "",
    without: Collection[str] = (),
    unlisted: Collection[str] = (),
) -> TrlParser:
    """Make a parser whose options are the fields of dataclasses.

    Args:
        dataclasses: dataclasses of the options, in the order of `parse_args_into_dataclasses`' result.
        prog: program name in the help, e.g. `nuggets score`.
        description: what the program does.
        usage: short form of a call; default `<prog> [options]`.
        epilog: examples and exit codes.
        without: names of fields that are no options of this program, because they would do nothing.
        unlisted: names of options that do nothing either, but are accepted, so that the command line of another
            program can be given.
    """
    from trl import TrlParser

    dataclasses = tuple(dataclasses)
    parser = TrlParser(
        dataclasses,
        prog=prog,
        usage=usage or f"{prog} [options]",
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
        allow_abbrev=False,  # each option has two spellings, so that a part of one is never clear
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="YAML file with values for these options, or the name of one that ships with the package (`nuggets "
        "configs` lists them). An option of the command line wins over it.",
    )
    if any(dataclass.__name__ == "SFTConfig" for dataclass in dataclasses):
        _offer_short_help(parser)
    for action in list(parser._actions):
        if action.dest in without:
            _remove(parser, action)
        elif action.dest in unlisted:
            action.help = argparse.SUPPRESS
    titles: dict[str, str] = {}
    for dataclass in sorted(dataclasses, key=lambda each: PLACE_IN_HELP.get(each.__name__, OWN_OPTIONS)):
        titles.update(titles_of(dataclass))
    _group(parser, titles)
    return parser


def titles_of(dataclass: Any) -> dict[str, str]:
    """Return the title above each option of a dataclass in `--help`, by name and in their order."""
    names = [field.name for field in fields(dataclass)]
    if dataclass.__name__ in TITLES_OF_TRL:
        return dict.fromkeys(names, TITLES_OF_TRL[dataclass.__name__])
    titles: dict[str, str] = {}
    for group in option_groups(dataclass):
        titles.update({field.name: group.title for field in fields(group)})
    return titles


def with_first_word(words: Sequence[str], option: str) -> list[str]:
    """Give an option the first word of a command line, if that is no option itself.

    Raises:
        ValueError: if the option stands there as well.

    Example:
        >>> with_first_word(["pool.jsonl", "--top_k", "5"], "--dataset_name")
        ['--dataset_name', 'pool.jsonl', '--top_k', '5']
    """
    if not words or words[0].startswith("-"):
        return list(words)
    for word in words[1:]:
        if word.split("=")[0].replace("-", "_") == option.replace("-", "_"):
            raise ValueError(f"The first word {words[0]!r} is the value of {option}, which is given too. Drop one.")
    return [option, *words]


def gather_repeated(words: Sequence[str], option: str) -> list[str]:
    """Put the values of an option that is given several times behind its first place; argparse would keep the last.

    Example:
        >>> gather_repeated(["--scores", "a=x", "--quick", "--scores=b=y"], "--scores")
        ['--scores', 'a=x', 'b=y', '--quick']
    """
    parts: list[list[str]] = [[]]
    gathered: list[str] = []
    current = parts[0]
    for word in words:
        name, equals, value = word.partition("=")
        if name == option:
            if not gathered:
                gathered.append(option)
                parts.append(gathered)
            current = gathered
            if equals:
                current.append(value)
        elif word.startswith("--"):
            current = [word]
            parts.append(current)
        else:
            current.append(word)
    return [word for part in parts for word in part]


def _remove(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    """Take an option away, but keep its default: a dataclass is made of all its fields."""
    for name in action.option_strings:
        parser._option_string_actions.pop(name)
    parser._optionals._remove_action(action)
    parser.set_defaults(**{action.dest: action.default})


def _offer_short_help(parser: argparse.ArgumentParser) -> None:
    """Let `--help` show the common options of training, and `--help_all` every option."""
    (own,) = (action for action in parser._actions if action.dest == "help")
    for name in own.option_strings:
        parser._option_string_actions.pop(name)
    parser._optionals._remove_action(own)
    parser.add_argument("-h", "--help", action=TrainingHelp, help="Show the options of selection, and common ones.")
    parser.add_argument("--help_all", action=TrainingHelp, dest="help", help="Show every option of trl.SFTConfig too.")


def _hide_uncommon(parser: argparse.ArgumentParser) -> None:
    """Leave all but the common options of SFTConfig out of the help, and say where they are."""
    (training,) = (group for group in parser._action_groups if group.title == TITLES_OF_TRL["SFTConfig"])
    hidden = set()
    for action in training._group_actions:
        if action.dest not in COMMON_IN_TRAINING and action.help != argparse.SUPPRESS:
            action.help = argparse.SUPPRESS
            hidden.add(action.dest)
    training.description = f"`{parser.prog} --help_all` lists {len(hidden)} more options of this group."


def _group(parser: argparse.ArgumentParser, titles: dict[str, str]) -> None:
    """Put options below their titles; help and config stay on top."""
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(titles.values())}
    for action in list(parser._optionals._group_actions):
        if action.dest in titles:
            parser._optionals._group_actions.remove(action)
            groups[titles[action.dest]]._group_actions.append(action)
    parser._action_groups = [group for group in parser._action_groups if group._group_actions]


def _metavar(action: argparse.Action) -> str:
    if action.metavar is not None:
        return str(action.metavar)
    if action.choices is not None:
        return "{" + ",".join(str(choice) for choice in action.choices) + "}"
    names = {"string_to_bool": "BOOL", "str": "TEXT", "int": "INT", "float": "NUMBER", "dict": "JSON"}
    return names.get(getattr(action.type, "__name__", ""), "VALUE")


def _shown(value: Any) -> str:
    """Write a default as the command line takes it."""
    if isinstance(value, list):
        return " ".join(_shown(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value).replace("%", "%%")
