"""The picture of learning curves: where lines run, where axes end, whom it names."""

import numpy as np
import pytest

from densecell_batch.plots.curves import _round_up, render_curves


def test_curves_of_one_point_and_none():
    """A line takes two points; the name takes none."""
    row, plots = {"step": 1, "loss": 2.0, "mean_iou": 0.1}, np.s_[:, :1080]

    def coloured(picture):
        return picture.min(-1) != picture.max(-1)

    assert not coloured(render_curves({})).any()
    for history in ([], [row]):
        drawn = render_curves({"a": history})
        assert not coloured(drawn[plots]).any()
        assert coloured(drawn[:, 1080:]).any()
    drawn = render_curves({"a": [row, row | {"step": 2}]})[plots]
    # From the middle to the right edge of both: at the top of an axis that ends at 2, at a tenth of one that ends at 1.
    for y, left, right in ((50, 280, 510), (320, 840, 1070)):
        assert (drawn[y, left + 1 : right] == (0, 114, 178)).all()
    rows, columns = np.nonzero(coloured(drawn))
    assert set(rows.tolist()) <= {49, 50, 51, 319, 320, 321}
    assert columns.min() >= 278


def test_curves_name_the_best_members_as_far_as_there_is_room():
    """Another worst one changes no name, another best one does."""

    def names(scores):
        rows = [{"step": 1, "loss": 2.0, "mean_iou": score} for score in scores]
        return render_curves({f"seed {i}": [row] for i, row in enumerate(rows)})[:, -140:]

    many = np.linspace(0.5, 0.6, 40)
    assert names(many).shape == names([*many, 0.1]).shape
    assert np.array_equal(names(many), names([*many, 0.1]))
    assert not np.array_equal(names(many), names([*many, 0.9]))


@pytest.mark.parametrize(
    ("highest", "axis"), [(1.9, 2), (2, 2), (0.013, 0.015), (7, 10), (0, 1), (float("nan"), 1), (float("inf"), 1)]
)
def test_ends_of_an_axis(highest, axis):
    assert _round_up(highest) == pytest.approx(axis)
