"""`OptionGroup`: options that belong together, with their title in `--help` and their checks."""

from __future__ import annotations

from typing import Any, ClassVar


class OptionGroup:
    """Base of the dataclasses of options, such as those that `NuggetsConfig` is made of.

    Each group is a dataclass with a `title` of its own. Its fields are the options, with their help in the metadata.
    Values are checked here and not by argparse, because those of a YAML file or of Python code never pass argparse.

    Attributes:
        title: heading above the options in `--help`.
    """

    title: ClassVar[str]

    def __post_init__(self) -> None:
        for group in option_groups(type(self)):
            group.check(self)

    def check(self) -> None:
        """Check the options of this group.

        Raises:
            ValueError, TypeError: for a value outside its range, or for options that exclude each other.
        """


def option_groups(options: type) -> list[Any]:
    """List the groups that a dataclass of options is made of, in the order of its fields.

    Example:
        >>> from nuggets_trainer.config import NuggetsConfig
        >>> [group.title for group in option_groups(NuggetsConfig)][:2]
        ['which rows are kept (one rule)', 'beyond the ranking (every pair is scored)']
    """
    return [group for group in reversed(options.__mro__) if "title" in vars(group)]
