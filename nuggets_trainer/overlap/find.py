"""Search for duplicates, near-duplicates and questions of tests in a pool, in one pass over its rows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import first_of_equal
from nuggets_trainer.golden.limits import CONTAMINATED, DUPLICATE, NEAR_DUPLICATE
from nuggets_trainer.overlap.contamination import Contamination, Questions
from nuggets_trainer.overlap.near import BANDS, band_hashes, can_find_near, find_near_duplicates
from nuggets_trainer.overlap.questions import load_questions, questions_of
from nuggets_trainer.overlap.words import Hashes, WordHasher
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.wording import counted, tally

if TYPE_CHECKING:
    from datasets import Dataset

    from nuggets_trainer.config.nuggets_config import NuggetsConfig

BATCH = 1000  # rows that are hashed together
NUM_EXAMPLES = 5
_FOUND: WeakKeyDictionary[Pool, dict[str, Overlap]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Overlap:
    """Rows of a pool that repeat others or hold questions of tests.

    Attributes:
        num_rows: number of rows that can be read.
        first_of: pool index of an earlier row with the same content, by pool index.
        near: pool index of an earlier row that is nearly the same, by pool index; None if it was not searched.
        contaminated: name of the test and the contamination, by pool index.
        num_questions: number of questions of each test, by its name.
    """

    num_rows: int
    first_of: dict[int, int]
    near: dict[int, int] | None
    contaminated: dict[int, tuple[str, Contamination]] = field(default_factory=dict)
    num_questions: dict[str, int] = field(default_factory=dict)

    def reasons(self, deduplicate: str) -> dict[int, str]:
        """Return why rows are left out, by pool index.

        Args:
            deduplicate: `no`, `exact` or `near`.
        """
        reasons = dict.fromkeys(self.contaminated, CONTAMINATED)
        if deduplicate != "no":
            reasons = {**dict.fromkeys(self.first_of, DUPLICATE), **reasons}
        if deduplicate == "near":
            reasons = {**dict.fromkeys(self.near or {}, NEAR_DUPLICATE), **reasons}
        return reasons

    def to_dict(self, deduplicate: str) -> dict[str, Any]:
        """Return the numbers and some examples, ready for JSON."""
        examples = []
        for i, (test, found) in list(self.contaminated.items())[:NUM_EXAMPLES]:
            examples.append({"index": i, "test": test, **dataclasses.asdict(found)})
        return {
            "deduplicate": deduplicate,
            "duplicates": len(self.first_of),
            "near_duplicates": None if self.near is None else len(self.near),
            "near_examples": [[first, i] for i, first in list((self.near or {}).items())[:NUM_EXAMPLES]],
            "contaminated": Counter(test for test, _ in self.contaminated.values()),
            "questions": self.num_questions,
            "contaminated_examples": examples,
            "says": self.describe(deduplicate),
        }

    def describe(self, deduplicate: str) -> str:
        """Describe in one line what was found, and which rows are left out."""
        exact = counted(len(self.first_of), "row repeats an earlier one", "rows repeat an earlier one")
        if self.first_of:
            fate = "kept" if deduplicate == "no" else "left out"
            exact += f" word for word ({fate})"
        return ", ".join([exact, self._describe_near(deduplicate), *self._describe_tests()])

    def _describe_near(self, deduplicate: str) -> str:
        if self.near is None:
            return "near-duplicates were not searched, because rensa is missing: `pip install rensa`"
        number = counted(len(self.near), "near-duplicate")
        if not self.near:
            return number
        if deduplicate == "near":
            return f"{number} of others (left out)"
        return f"{number} of others (kept; `--deduplicate near` leaves them out)"

    def _describe_tests(self) -> list[str]:
        if not self.num_questions:
            return []
        tests = " and ".join(self.num_questions)
        text = f"{counted(len(self.contaminated), 'row holds', 'rows hold')} questions of {tests}"
        if not self.contaminated:
            return [text]
        by_test = ""
        if len(self.num_questions) > 1:
            by_test = f": {tally(Counter(test for test, _ in self.contaminated.values()))}"
        return [f"{text} (left out{by_test})"]


def exclude_overlap(pool: Pool, config: NuggetsConfig) -> dict[str, Any]:
    """Exclude the rows of a pool that repeat others or hold questions of tests, as the config says.

    Args:
        pool: the rows; rows that an earlier call excluded are usable again unless this call excludes them.
        config: options of the user; `deduplicate`, `decontaminate` and `columns` are read.

    Returns:
        The numbers and examples of `Overlap.to_dict`.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `overlap_of`.
    """
    found = overlap_of(pool, config)
    pool.exclude(found.reasons(config.deduplicate), "overlap")
    return found.to_dict(config.deduplicate)


def overlap_of(pool: Pool, config: NuggetsConfig) -> Overlap:
    """Call `find_overlap` with the tests of the config.

    All ranks must call it, and the main process searches the rows. It does so once for each pool and its tests,
    because a training job asks several times.

    Args:
        pool: the rows.
        config: options of the user; `deduplicate`, `decontaminate` and `columns` are read.

    Raises:
        FileNotFoundError, ValueError: if the questions of a test cannot be read.
        ImportError: if near-duplicates are to be left out, and the library that finds them is not installed.
    """
    if config.deduplicate == "near" and not can_find_near():
        raise ImportError("`deduplicate=near` needs rensa, which is not installed. Run `pip install rensa`.")
    places, mapping = config.tests, config.column_mapping

    def find() -> Overlap:
        tests = {}
        for place in places:
            tests[place.label] = load_questions(place, mapping)
        return find_overlap(pool, tests)

    known = _FOUND.setdefault(pool, {})
    question = f"{places} {mapping}"
    if question not in known:
        known[question] = Ranks().on_main(find)
    return known[question]


def find_overlap(pool: Pool, tests: Mapping[str, Sequence[str]] | None = None, with_near: bool = True) -> Overlap:
    """Find rows of a pool that repeat others, and rows that hold the questions of tests.

    Args:
        pool: the rows.
        tests: questions of each test, by its name.
        with_near: whether to look for near-duplicates too.

    Raises:
        ValueError: if rows that are tokenized are to be compared with questions, which are texts.
    """
    keys, _ = pool.read_keys()
    tests = tests or {}
    if tests and pool.format == "tokenized":
        raise ValueError(
            "`decontaminate` compares words, but the rows of the pool are tokenized. Give the rows as texts."
        )
    first_of = first_of_equal(keys)
    num_readable = sum(map(bool, keys))
    different = [i for i, key in enumerate(keys) if key and i not in first_of]
    with_near = with_near and can_find_near()
    contaminated: dict[int, tuple[str, Contamination]] = {}
    hashes = np.zeros((len(different), BANDS if with_near else 0), dtype=np.uint64)
    if with_near or tests:
        contaminated = _look_through(pool, different, tests, hashes)
    for i, first in first_of.items():
        if first in contaminated:
            contaminated[i] = contaminated[first]
    near = None
    if with_near:
        near = find_near_duplicates(hashes, np.array(different, dtype=np.int64), pool.readable_rows)
    num_questions = {name: len(texts) for name, texts in tests.items()}
    return Overlap(num_readable, first_of, near, dict(sorted(contaminated.items())), num_questions)


def _look_through(
    pool: Pool, indices: Sequence[int], tests: Mapping[str, Sequence[str]], hashes: Hashes
) -> dict[int, tuple[str, Contamination]]:
    """Read the rows once: fill in the hashes of their bands, and find the rows that hold questions.

    Args:
        pool: the rows.
        indices: pool indices of the n rows.
        tests: questions of each test, by its name.
        hashes: array for the hashes of the bands, `(n, BANDS)`; without columns if they are not needed.

    Returns:
        Name of the test and the contamination, by pool index.
    """
    hasher = WordHasher()
    questions = {name: Questions(texts) for name, texts in tests.items()}
    contaminated: dict[int, tuple[str, Contamination]] = {}
    for start in range(0, len(indices), BATCH):
        batch = indices[start : start + BATCH]
        words, prompt_lengths = hasher.hash_rows(pool.readable_rows(batch))
        if hashes.shape[1]:
            hashes[start : start + len(batch)] = band_hashes(words)
        for name, own in questions.items():
            for number, found in own.find(words, prompt_lengths).items():
                contaminated.setdefault(batch[number], (name, found))
    return contaminated


def check_heldout(pool: Pool, heldout: Mapping[str, Dataset]) -> dict[str, Any]:
    """Count the rows of a pool that hold the prompt of a held-out row; no row is left out.

    Args:
        pool: the rows.
        heldout: held-out rows by the name of their set.

    Returns:
        A dict with `rows` (number of such rows by the name of the set) and `says` (the same in a sentence).
    """
    tests, unknown = {}, []
    for name, dataset in heldout.items():
        try:
            tests[name] = questions_of(dataset, "the held-out rows")
        except ValueError:  # rows of token ids, say
            unknown.append(name)
    if unknown or pool.format == "tokenized":
        return {
            "rows": {},
            "says": "The pool was not searched for held-out rows, because its rows or the held-out rows are not "
            "texts.",
        }
    found = find_overlap(pool, tests, with_near=False)
    counts = Counter(dict.fromkeys(tests, 0))
    counts.update(test for test, _ in found.contaminated.values())
    if not found.contaminated:
        return {"rows": counts, "says": "No row of the pool holds the prompt of a held-out row."}
    number = counted(len(found.contaminated), "row of the pool holds", "rows of the pool hold")
    by_set = f" ({tally(counts)})" if len(counts) > 1 else ""
    says = (
        f"{number} the prompt of a held-out row, word for word or slightly reworded{by_set}, so results on these "
        "held-out rows may be too good. `decontaminate` leaves such rows out."
    )
    return {"rows": counts, "says": says}
