"""The plot of a comparison: what its axes say, and where its points lie."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from nuggets_trainer.analysis.bootstrap import Bootstrap
from nuggets_trainer.comparison.arms import ARMS, BASE, BASE_LABEL
from nuggets_trainer.comparison.plot import draw_losses
from nuggets_trainer.comparison.table import ArmResult, make_lines

pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is an extra")
SIZED = [name for name, arm in ARMS.items() if arm.has_size]


def lines_of(fractions, num_seeds=3, spread=1.0):
    """All arms, with losses that grow by `spread` from the first arm to the last."""
    generator = np.random.default_rng(0)
    results = []
    for number, name in enumerate((BASE, *ARMS)):
        label = BASE_LABEL if name == BASE else ARMS[name].label
        places = fractions if name in SIZED else [None]
        for fraction in places:
            level = 0.5 + spread * number / len(ARMS)
            losses = level + 0.005 * generator.normal(size=(num_seeds, 30))
            results.append(ArmResult(name, label, fraction, 10, None, losses, 0.0, 1.0, 3))
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


@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("fractions", [[0.1], [0.01, 0.05, 0.1, 0.25]])
def test_each_arm_has_a_line_and_each_size_its_points(drawn, fractions, num_seeds):
    """Curves of a dozen arms could not be told apart, and one size gave an axis without numbers."""
    lines = lines_of(fractions, num_seeds)
    axes, texts = drawn(lines)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [ARMS[name].label for name in SIZED]  # their losses grow in this order
    assert set(texts) >= {BASE_LABEL, ARMS["full"].label, *(f"{100 * size:g}% of the pool" for size in fractions)}
    for bars, size in zip(axes.containers, fractions, strict=True):
        for (loss, place), name in zip(bars.lines[0].get_xydata(), SIZED, strict=True):
            assert loss == next(line.loss for line in lines if (line.arm, line.fraction) == (name, size))
            assert abs(place - SIZED.index(name)) < 0.4  # next to its own name
    assert axes.yaxis_inverted()  # the best on top


def test_bars_are_those_of_the_difference_from_random_rows(drawn):
    """Bars of the losses overlapped where the paired difference was plain."""
    lines = lines_of([0.1])
    axes, texts = drawn(lines)
    by_arm = {line.arm: line for line in lines}
    random = by_arm["random"].loss
    (bars,) = axes.containers
    (segments,) = [collection.get_segments() for collection in bars.lines[2]]
    for name, segment in zip(SIZED, segments, strict=True):
        ends = segment[:, 0] - random
        expected = (0, 0) if name == "random" else by_arm[name].minus_random[1:]
        assert ends == pytest.approx(expected, abs=1e-9)
    assert "bars: 95% against random rows" in texts


def test_losses_that_differ_tenfold_get_a_log_axis(drawn):
    axes, texts = drawn(lines_of([0.1, 0.2], spread=50.0))
    assert axes.get_xscale() == "log" and {"1", "10"} <= set(texts)
    assert not any(text.startswith("bars") for text in texts)  # a difference has no length on such an axis
    assert drawn(lines_of([0.1, 0.2]))[0].get_xscale() == "linear"
