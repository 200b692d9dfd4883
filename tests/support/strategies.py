"""Axes and grids of tiles for property tests: as the program makes them, and any others that cover their volume."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from densecell_batch.inference.tiling import Axis, TileGrid, published_axis, wide_axis


@st.composite
def any_axes(draw: Any, longest: int = 40) -> Axis:
    """Tiles at any places without a gap; also beyond both ends of the volume, and several at almost one place."""
    length = draw(st.integers(1, longest))
    output = draw(st.integers(1, max(2, longest // 2)))
    corners = [-draw(st.integers(0, output + 2))]
    least = max(1, output // 4)  # not too many of them
    while corners[-1] + output < length:
        corners.append(corners[-1] + draw(st.integers(least, output)))
    if draw(st.booleans()):
        corners.append(corners[-1] + draw(st.integers(1, output)))
    return Axis(length, output, draw(st.sampled_from([0, 1, 5])), tuple(corners))


@st.composite
def published_axes(draw: Any, longest: int = 40) -> tuple[Axis, int]:
    """The published grid, and by how much its tiles are to overlap."""
    output = draw(st.integers(1, max(2, longest // 2)))
    overlap = draw(st.integers(0, min(output - 1, 2 * output // 3)))
    return published_axis(draw(st.integers(1, longest)), output, draw(st.sampled_from([0, 2])), overlap), overlap


@st.composite
def wide_axes(draw: Any, longest: int = 40) -> Axis:
    """Wide tiles, for nets of little context."""
    alignment = draw(st.sampled_from([1, 2, 4, 8]))
    return wide_axis(
        draw(st.integers(1, longest)), draw(st.integers(1, 4)), draw(st.sampled_from([0, 3])), draw(st.integers(0, 5)),
        draw(st.integers(0, 2)), alignment, draw(st.integers(0, alignment - 1)),
    )  # fmt: skip


def axes(longest: int = 40) -> st.SearchStrategy[Axis]:
    """Of all kinds."""
    return st.one_of(any_axes(longest), published_axes(longest).map(lambda drawn: drawn[0]), wide_axes(longest))


def grids(depth: int = 9, side: int = 14) -> st.SearchStrategy[TileGrid]:
    """Small volumes."""
    return st.builds(TileGrid, axes(depth), axes(side), axes(side))
