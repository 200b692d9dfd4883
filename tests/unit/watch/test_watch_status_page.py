"""The status page: in a real browser, with what a hostile or careless file name can hold."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import browse, needs_browser
from PIL import Image
from watched import save
from watching import drain, segmenter  # noqa: F401 (a fixture)

from densecell_batch.watch.ledger import Row, Table
from densecell_batch.watch.status_page import Situation, status_text, write_status_page

HOSTILE = "<script>document.title='pwned'</script>&\"'.tif"


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.texts.append(data)


def page(out: Path, rows, **more) -> _Texts:
    done = sum(row.state == "done" for row in rows)
    write_status_page(out, Situation("/data/in", Table(rows, done, ["node 1"], []), **more))
    parsed = _Texts()
    parsed.feed((out / "status.html").read_text())
    return parsed


def test_names_are_text(tmp_path):
    rows = [Row(HOSTILE, state=state, reason=HOSTILE, labels=HOSTILE, report=HOSTILE) for state in
            ("queued", "running", "failed", "done")]  # fmt: skip
    parsed = page(tmp_path, rows, trouble=HOSTILE)
    assert "script" not in parsed.tags
    assert sum(HOSTILE in text for text in parsed.texts) >= 6
    links = [value for key, value in parsed.attributes if key in ("href", "src")]
    assert len(links) >= 2  # to labels and report
    assert all(value and "<" not in value for value in links)


def test_what_is_said(tmp_path):
    rows = [Row(f"{i}.tif", seen=1e9) for i in range(250)]
    rows[0].attempts, rows[0].reason, rows[0].retry_at = 1, "truncated", time.time() + 100
    text = " ".join(page(tmp_path, rows, arriving=7, trouble="the disk is full").texts)
    assert "the disk is full" in text
    assert "and 50 more" in text
    assert re.search(r"attempt 2 at .*, since: truncated", text)
    assert re.search(r"7\s+arriving\s+250\s+queued", text)
    assert 'http-equiv="refresh"' in (tmp_path / "status.html").read_text()
    page(tmp_path, rows, stopped=True)
    assert 'http-equiv="refresh"' not in (tmp_path / "status.html").read_text()  # no page that waits for nobody


def test_the_page_of_all_that_was_done_is_linked(tmp_path):
    assert not page(tmp_path, []).attributes.count(("href", "summary.html"))
    (tmp_path / "summary.html").touch()
    assert page(tmp_path, []).attributes.count(("href", "summary.html")) == 1


def test_links_are_named(tmp_path):
    parsed = page(tmp_path, [], links=("/data/in/<linked>",))
    assert any("/data/in/<linked> is a link to a folder" in text for text in parsed.texts)


def test_the_table_for_a_terminal():
    rows = [
        Row("a b.tif", state="failed", attempts=3, reason="not a\nTIFF", finished=1e9),
        Row("c.tif", state="running", progress=0.5, watcher="node 1", started=1e9),
        Row("d.tif", state="done", labels="d_labels.tif", finished=1e9),
    ]
    lines = status_text(Table(rows, 1, [], [Path("ledger-2.sqlite")])).splitlines()
    assert lines[1].startswith("failed")
    assert lines[1].endswith("not a TIFF")
    assert "50 %, node 1" in lines[2]
    assert lines[4] == "0 queued; 1 running; 1 failed; 1 done"
    assert lines[5] == "watchers: none"
    assert lines[6].startswith("ledger-2.sqlite")


@pytest.mark.browser
@needs_browser
def test_in_a_browser(tmp_path, segmenter):  # noqa: F811
    inbox, out = tmp_path / "in", tmp_path / "out"
    for i, name in enumerate(("mouse 3, cortex.tif", "fly/wing <1>.tif", "größe.tif")):
        save(inbox / name, i, (4, 200, 220))
    (inbox / "broken.tif").write_text("no TIFF")
    segmenter.options.__dict__["preview"] = True
    try:
        drain((inbox, out), segmenter)
    finally:
        segmenter.options.__dict__["preview"] = False
    dom = browse(tmp_path, out / "status.html", "--dump-dom").decode()
    assert "mouse 3, cortex.tif" in dom
    assert "wing &lt;1&gt;.tif" in dom
    assert "not a TIFF file" in dom
    picture = tmp_path / "page.png"
    filled = []
    for _ in range(2):
        browse(tmp_path, out / "status.html", f"--screenshot={picture}", "--window-size=1000,1100")
        shown = np.asarray(Image.open(picture).convert("RGB"))
        assert shown.shape == (1100, 1000, 3)
        filled.append((shown.min(-1) < 200).mean())
        for preview in out.rglob("*_preview.png"):
            preview.unlink()
    assert filled[0] > 0.1  # the previews are there: slices and labels fill much of the page
    assert filled[0] > 3 * filled[1]
