"""Headless batch segmentation of dense EM stacks with ensembles of 2D-3D nets."""

from __future__ import annotations

from densecell_batch._version import __version__

__all__ = ["__version__"]
