"""Pages in a real browser, where one is installed."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


def browse(scratch: Path, page: Path, *arguments: str) -> bytes:
    """What Chromium prints of a page."""
    profile = scratch / f"profile-{time.monotonic_ns()}"
    words = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        f"--user-data-dir={profile}", *arguments, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, timeout=120, check=True, cwd=scratch)
    return done.stdout
