import itertools
import os
import sys

import pytest

from ssl_prune.report import plot_widths

NAMES, BEFORE, AFTER = ["conv1", "conv2", "fc1"], [20, 50, 500], [3, 12, 111]


@pytest.fixture(autouse=True)
def _matplotlib():
    pytest.importorskip("matplotlib")


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")], ids=["png", "svg", "pdf"]
)
def test_the_suffix_chooses_the_format(tmp_path, suffix, start):
    path = tmp_path / f"widths{suffix}"
    plot_widths(NAMES, BEFORE, AFTER, path, macs_share=0.078, title="LeNet-5")
    assert path.read_bytes().startswith(start)
    assert os.listdir(tmp_path) == [path.name]


def drawn(tmp_path, monkeypatch, *arguments, **options):
    """The figure that would be written."""
    from matplotlib.figure import Figure

    seen = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path: seen.append(self) or save(self, path))
    plot_widths(*arguments, tmp_path / "a.png", **options)
    return seen[0]


def test_bars_and_texts(tmp_path, monkeypatch):
    figure = drawn(tmp_path, monkeypatch, NAMES, BEFORE, AFTER, macs_share=0.078, title="LeNet-5")
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == BEFORE + AFTER
    assert [text.get_text() for text in axes.texts] == ["3 / 20", "12 / 50", "111 / 500"]
    assert axes.get_title(loc="left") == "LeNet-5: 126 of 570 units, 7.8 % of the MACs"
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first layer at the top


@pytest.mark.parametrize("count", [1, 3, 30, 120])
def test_names_do_not_overlap_and_numbers_stay_inside(tmp_path, monkeypatch, count):
    names = [f"layer{i}.conv" for i in range(count)]
    figure = drawn(tmp_path, monkeypatch, names, [64] * count, [i % 65 for i in range(count)])
    axes = figure.axes[0]
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(boxes))
    right = figure.bbox.x1
    assert all(text.get_window_extent().x1 <= right for text in axes.texts)
    assert all(box.x0 >= 0 for box in boxes)


def test_pyplot_and_its_backend_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    plot_widths(NAMES, BEFORE, AFTER, tmp_path / "a.png")
    assert "matplotlib.pyplot" not in sys.modules


def test_what_does_not_agree_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got 3 names, 3 widths before and 2 after"):
        plot_widths(NAMES, BEFORE, AFTER[:2], tmp_path / "a.png")
    with pytest.raises(ValueError, match="layer conv1: 20 of 3 after slimming"):
        plot_widths(NAMES, AFTER, BEFORE, tmp_path / "a.png")
    with pytest.raises(ValueError, match="got 0 names"):
        plot_widths([], [], [], tmp_path / "a.png")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"ssl-prune\[plots\]"):
        plot_widths(NAMES, BEFORE, AFTER, tmp_path / "a.png")
