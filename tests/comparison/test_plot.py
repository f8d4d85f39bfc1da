"""The plot of a comparison: what its axes say, and where its points lie."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from nuggets_trainer.analysis.bootstrap import Bootstrap
from nuggets_trainer.comparison.arms import ARMS, LABELS
from nuggets_trainer.comparison.plot import _drawn_arms, draw_losses
from nuggets_trainer.comparison.table import ArmResult, make_lines

pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is an extra")


def lines_of(fractions, num_seeds=3, spread=1.0):
    """All arms, with losses that grow by `spread` from the first arm to the last."""
    generator = np.random.default_rng(0)
    results = []
    for arm in ("base", *ARMS):
        places = [None] if arm in ("base", "full") else fractions
        for fraction in places:
            level = 0.5 + spread * list(LABELS).index(arm) / len(LABELS)
            losses = level + 0.05 * generator.normal(size=(num_seeds, 30))
            results.append(ArmResult(arm, fraction, 10, None, losses, 0.0, 1.0, 3))
    return make_lines(results, Bootstrap(np.ones(30, dtype=np.int64), num_seeds, 50), 1)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw lines; return the axes and the texts of the SVG file."""

    def draw(lines):
        kept = []
        monkeypatch.setattr(pyplot, "close", kept.append)
        draw_losses(lines, tmp_path / "plot.svg")
        root = ElementTree.parse(tmp_path / "plot.svg").getroot()
        texts = ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
        return kept[0].axes[0], texts

    yield draw
    monkeypatch.undo()
    pyplot.close("all")


def numbers(texts):
    return [text for text in texts if text.replace(".", "", 1).isdigit()]


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_one_size_gives_a_named_point_for_each_arm(drawn, num_seeds):
    """The logarithmic axis had no numbers, and the arms were strewn over shares that nobody asked for."""
    lines = lines_of([0.1], num_seeds)
    axes, texts = drawn(lines)
    arms = _drawn_arms(lines)
    assert len(arms) == len(ARMS) - 1 and set(texts) >= {LABELS[arm] for arm in LABELS}
    assert "10% of the pool, chosen as" in texts and len(numbers(texts)) >= 4
    for place, (arm, bars) in enumerate(zip(arms, axes.containers, strict=True)):
        loss = next(line.loss for line in lines if line.arm == arm)
        assert bars.lines[0].get_xydata().tolist() == [[place, loss]]
        assert axes.get_xticklabels()[place].get_text() == LABELS[arm]


@pytest.mark.parametrize("fractions", [[0.05, 0.1], [0.01, 0.05, 0.1, 0.25], [0.1, 0.11]])
def test_points_lie_next_to_their_own_size(drawn, fractions):
    axes, texts = drawn(lines_of(fractions))
    assert set(texts) >= {f"{100 * fraction:g}%" for fraction in fractions} and len(numbers(texts)) >= 4
    assert "share of the pool that is tuned on" in texts and LABELS["golden"] in texts
    for bars in axes.containers:
        for x, fraction in zip(bars.lines[0].get_xdata(), fractions, strict=True):
            nearest = min(fractions, key=lambda other: abs(np.log(x / 100 / other)))
            assert nearest == fraction


def test_losses_that_differ_tenfold_get_a_log_axis(drawn):
    axes, texts = drawn(lines_of([0.1, 0.2], spread=50.0))
    assert axes.get_yscale() == "log" and {"1", "10"} <= set(texts)
    assert drawn(lines_of([0.1, 0.2]))[0].get_yscale() == "linear"
