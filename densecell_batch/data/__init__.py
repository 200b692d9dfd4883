"""What lies in the package beside its code: bundles of models, and a stack to try them on. Nothing here but paths."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUNDLED", "SAMPLE"]

BUNDLED = Path(__file__).parent  # a folder for each model
SAMPLE = BUNDLED / "fly-vnc-sample" / "fly-vnc-sample.tif"
