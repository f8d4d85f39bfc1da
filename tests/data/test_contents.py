"""Repeated texts, refusals and boilerplate are counted, and good rows are not."""

from __future__ import annotations

from nuggets_trainer.data.contents import KINDS, look_through

LONG = "The sky is blue because short waves are scattered more."
GOOD = [
    (0, "Name a colour.", "Blue."),
    (1, "Write an apology to a customer.", "We are sorry that your parcel came late. We cannot undo it, but ..."),
    (
        2,
        "Why can't penguins fly?",
        "Their wings are short for their weight, and as far as we know they always were; we can't tell.",
    ),
]


def test_good_rows_are_not_counted():
    found = look_through(GOOD)
    assert found["num_rows"] == 3 and all(found[kind]["num_rows"] == 0 for kind in KINDS)


def test_each_kind_is_counted_with_examples():
    rows = [(10, "Name a  COLOUR.", "Red."), (11, "Say hi.", "I\u2019m sorry, but I can\u2019t do that.")]
    rows += [
        (12, "Plan a trip.", "As an AI language model, I suggest Rome. I hope this helps!"),
        (13, "Other.", LONG.upper()),
        (14, "Last.", "blue."),
    ]
    found = look_through([*GOOD[:1], (1, "First.", LONG), *rows])  # a short answer may be that of another row
    places = {kind: found[kind]["examples"] for kind in KINDS}
    assert places == {
        "repeated_prompts": [10],
        "repeated_completions": [13],
        "refusals": [11],
        "boilerplate": [12],
    }


def test_of_equal_rows_all_but_the_first_are_repeats():
    found = look_through([(i, "Again", str(i)) for i in range(9)] + [(9, "", "x"), (10, "", "y")])
    assert found["repeated_prompts"] == {"num_rows": 8, "examples": [1, 2, 3, 4, 5]}  # an empty prompt is no repeat
