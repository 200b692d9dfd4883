"""Headless batch segmentation of dense EM stacks with ensembles of 2D-3D nets."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
