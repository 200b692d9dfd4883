"""Pictures and tables of the notebooks beside it: slices, labels, probabilities, scores, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.patches import Patch

import densecell_batch as dc

# Those of the published labels, which do not name them, in the colours of the lab.
PLATELET_CLASSES = (
    dc.ClassInfo("background", (0, 0, 127)),
    dc.ClassInfo("cell", (0, 40, 255)),
    dc.ClassInfo("mitochondrion", (0, 212, 255)),
    dc.ClassInfo("alpha granule", (124, 255, 121)),
    dc.ClassInfo("canalicular vessel", (255, 229, 0)),
    dc.ClassInfo("dense granule body", (255, 70, 0)),
    dc.ClassInfo("dense granule core", (127, 0, 0)),
)

_OPACITY = 0.45  # of the labels over an image
_CLEAR = "background"  # the class that is drawn without colour
_SIDE = 4.2  # inches of a picture
_INK, _PAPER = "#222222", "white"


def labelled(grey: np.ndarray, labels: np.ndarray, classes: Sequence[dc.ClassInfo]) -> np.ndarray:
    """Labels (y, x) in the colours of their classes, over the image (y, x), whose background stays as it is:
    (y, x, 3) in 0 to 1.
    """
    table, opacity = np.zeros((256, 3)), np.full(256, _OPACITY)  # what is outside, 255, gets black
    table[: len(classes)] = [np.array(c.colour) / 255 for c in classes]
    opacity[[i for i, c in enumerate(classes) if c.name == _CLEAR]] = 0
    over = opacity[labels][..., None]
    return (1 - over) * _stretched(grey)[..., None] + over * table[labels]


def numbered(grey: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Objects (y, x), numbered from 1 on, each in a colour, over the image (y, x): (y, x, 3) in 0 to 1."""
    colours = np.vstack([np.zeros((1, 3)), plt.get_cmap("tab20").colors])
    opacity = _OPACITY * (objects > 0)[..., None]
    numbers = np.where(objects > 0, (objects.astype(np.int64) - 1) % 20 + 1, 0)
    return (1 - opacity) * _stretched(grey)[..., None] + opacity * colours[numbers]


def show_slices(pictures: Mapping[str, np.ndarray], classes: Sequence[dc.ClassInfo] = (), columns: int = 3) -> None:
    """Pictures side by side, grey (y, x) or in colours (y, x, 3), each under its title; the classes below."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(_SIDE * columns, (_SIDE + 0.3) * rows + 0.3), layout="constrained", squeeze=False
    )
    for place in axes.flat:
        place.axis("off")
    for place, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
        place.imshow(_stretched(picture) if picture.ndim == 2 else picture, cmap="gray", vmin=0, vmax=1)
        place.set_title(title, fontsize=11)
    named = [c for c in classes if c.name != _CLEAR]
    if named:
        patches = [Patch(facecolor=np.array(c.colour) / 255, edgecolor=_INK, label=c.name) for c in named]
        lines = -(-len(named) // (2 * columns))
        in_each = -(-len(named) // lines)
        figure.legend(handles=patches, loc="outside lower center", ncols=in_each, frameon=False)
    plt.show()


def show_probabilities(probabilities: np.ndarray, classes: Sequence[dc.ClassInfo]) -> None:
    """Probability (y, x, class) of each class in a slice, white for 1."""
    rows = -(-len(classes) // 5)
    columns = -(-len(classes) // rows)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 3.4 * rows), layout="constrained", squeeze=False)
    for place in axes.flat:
        place.axis("off")
    for i, (place, c) in enumerate(zip(axes.flat, classes, strict=False)):
        drawn = place.imshow(probabilities[..., i], cmap="gray", vmin=0, vmax=1)
        place.set_title(c.name, fontsize=11)
    figure.colorbar(drawn, ax=axes, label="probability", shrink=0.6, pad=0.02)
    plt.show()


def show_map(values: np.ndarray, label: str) -> None:
    """Values (y, x) as a map with its scale."""
    figure, place = plt.subplots(figsize=(_SIDE + 1.2, _SIDE), layout="constrained")
    place.axis("off")
    figure.colorbar(place.imshow(values, cmap="magma", vmin=0), ax=place, label=label, shrink=0.8)
    plt.show()


def show_confusion(scores: dc.Comparison, classes: Sequence[dc.ClassInfo]) -> None:
    """What becomes of the voxels of each true class: rows in shares."""
    counts = np.array(scores.confusion, float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names, side = [c.name for c in classes], 1.6 + 0.72 * len(classes)
    _, place = plt.subplots(figsize=(side + 1, side), layout="constrained")
    place.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        ink = _PAPER if share > 0.5 else _INK
        place.text(column, row, f"{share:.2f}", ha="center", va="center", color=ink, fontsize=9)
    place.set_xticks(range(len(names)), names, rotation=40, ha="right")
    place.set_yticks(range(len(names)), names)
    place.set(xlabel="found", ylabel="true")
    place.spines[:].set_visible(False)
    plt.show()


def show_curves(rows: Sequence[Mapping[str, float]]) -> None:
    """Loss and mean IoU of a training against its steps, of the rows that `train` hands to `progress`."""
    _, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for place, key, title in zip(axes, ("loss", "mean_iou"), ("loss", "mean IoU"), strict=True):
        here = [row for row in rows if key in row]
        place.plot([row["step"] for row in here], [row[key] for row in here], color="#0072b2", marker="o", markersize=3)
        place.set(xlabel="steps", title=title, ylim=(0, None) if key == "loss" else (0, 1))
        place.spines[["top", "right"]].set_visible(False)
        place.grid(axis="y", alpha=0.3)
    plt.show()


def score_table(
    compared: Mapping[str, dc.Comparison], classes: Sequence[dc.ClassInfo], *, truth: np.ndarray | None = None
) -> Markdown:
    """IoU of each class and their mean, a column for each of what is compared; with the `truth`, its share, too."""
    shares = None if truth is None else np.bincount(truth.ravel(), minlength=len(classes)) / truth.size
    lines = [["class", *(["share of the voxels"] if truth is not None else []), *compared]]
    lines += [["---"] * len(lines[0])]
    for i, c in enumerate(classes):
        share = [] if shares is None else [f"{100 * shares[i]:.2f} %"]
        lines.append([c.name, *share, *(_number(scores.iou[i]) for scores in compared.values())])
    rest = [] if shares is None else [""]
    for title, key in (("**mean IoU**", "mean_iou"), ("share of the voxels that are right", "accuracy")):
        lines.append([title, *rest, *(_number(getattr(scores, key)) for scores in compared.values())])
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _stretched(grey: np.ndarray) -> np.ndarray:
    """Grey values spread over 0 to 1, but for a few of the darkest and brightest."""
    low, high = np.percentile(grey, [0.5, 99.5])
    return np.clip((grey.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
