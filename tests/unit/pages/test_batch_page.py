"""The page of a batch: what it says, and that nothing on it can do harm."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import browse, needs_browser
from markupsafe import escape
from PIL import Image

from densecell_batch.pages.batch import render_batch
from densecell_batch.pages.entries import Amount, StackEntry
from densecell_batch.pages.ranking import rank
from densecell_batch.pages.rendering import policy

HOSTILE = "<script>document.title='pwned'</script>&\"'\u202e{{ 7*7 }}\n\udcff"
VOID = {"meta", "img", "input", "link", "br", "rect"}


class _Page(HTMLParser):
    """A page whose tags are in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.texts, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def stacks(number: int = 12) -> list[StackEntry]:
    picture = b"\xff\xd8 no JPEG, but nobody looks"
    return [
        StackEntry(
            f"cells {i}", model="m 1", slices=8, alike=True, fit=0.3 + i / 100, confidence=0.9, disagreement=0.1,
            own_disagreement=0.2, outside=0.0, thumbnail=picture, preview=f"./cells%20{i}_preview.png",
            classes={"cell": Amount("#ff0000", 100 + i, 0.25 * (i + 1), 0.5)}, objects={"cell": i},
            files={"labels": f"./cells%20{i}_labels.tif"},
        )
        for i in range(number)
    ]  # fmt: skip


def page(entries, title="out", **more) -> str:
    return render_batch(title, rank(entries), **more)


def test_what_is_said():
    entries = stacks()
    entries[3] = replace(entries[3], warnings=("slice 2 is blank",), damaged={"blank": 1}, damaged_slices=1)
    entries[7] = replace(entries[7], corrected=True, folder="mouse 2")
    entries.append(StackEntry("broken", failed="not a TIFF file"))
    text = page(entries, table="summary.csv")
    parsed = _Page(text)
    said = " ".join("".join(parsed.texts).split())
    assert "13 stacks, those to look at first on top. The same as a table" in said
    assert said.index("broken") < said.index("cells 3") < said.index("cells 0")
    assert "look at this failed: not a TIFF file" in said
    assert "look at this damaged slices: 1 blank" in said
    assert "1 warning slice 2 is blank" in said
    assert "cells 7 corrected in mouse 2" in said
    assert "Changed by hand since" in said
    assert "look at this (2)" in said
    assert "corrected (1)" in said
    assert parsed.tags.count("tr") == 14
    assert parsed.tags.count("figure") == 3  # fit, volumes and objects differ
    named = {value for tag, key, value in parsed.attributes if key == "data-name"}  # in narrow windows
    assert {"cell µm³", "cell objects"} < named
    links = {value for tag, key, value in parsed.attributes if (tag, key) == ("a", "href")}
    assert {"summary.csv", "./cells%200_labels.tif", "./cells%200_preview.png"} < links


def test_names_are_text():
    entry = replace(
        stacks(1)[0], name=HOSTILE, folder=HOSTILE, model=HOSTILE, unlike=(HOSTILE,), remedy=HOSTILE, alike=False,
        fit=2.0, warnings=(HOSTILE,), classes={HOSTILE: Amount("#00ff00", 1, 2.0, 1.0)}, objects={HOSTILE: 3},
        files={f"instances of {HOSTILE}": "./x"}, damaged={HOSTILE: 1}, damaged_slices=1,
    )  # fmt: skip
    text = page([entry, StackEntry("b", failed=HOSTILE), *stacks(2)], title=HOSTILE)
    parsed = _Page(text)
    assert parsed.tags.count("script") == 1
    assert "pwned'</script>" not in text
    assert "\u202e" not in text
    assert "49" not in text.replace("{{ 7*7 }}", "")
    text.encode()  # no half of a pair
    shown = "<script>document.title='pwned'</script>&\"'\\u202e{{ 7*7 }}\\n\\xff"
    assert sum(shown in text for text in parsed.texts) >= 8
    assert ("img", "alt", f"labels over the middle slice of {shown}") in parsed.attributes


def test_nothing_is_loaded_from_elsewhere():
    text = page(stacks())
    parsed = _Page(text)
    addresses = [value for _, key, value in parsed.attributes if key in ("src", "href", "action", "data", "srcset")]
    assert all(re.match(r"\./|#stacks$|data:image/jpeg;base64,", value) for value in addresses)
    assert "http:" not in text
    assert "https:" not in text
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on") or name == "style"]


def test_the_policy_allows_its_own_script_and_style_alone():
    text = page(stacks(2))
    (policy,) = (value for tag, key, value in _Page(text).attributes if key == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_the_same_stacks_make_the_same_bytes():
    assert page(stacks()) == page(stacks())


@pytest.mark.parametrize("entries", [[], stacks(1), [StackEntry("a", failed="why")]])
def test_few_stacks(entries):
    _Page(page(entries))


def test_voxels_where_no_size_is_known():
    entries = [replace(one, classes={"cell": Amount("#ff0000", 12345, None, 0.5)}) for one in stacks(2)]
    text = page(entries)
    assert "12,345" in text
    assert "µm³" not in text


def driven(text: str, script: str) -> str:
    """The page with a script of the test's own, which no policy forbids."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    return text.replace("</body>", f"<script>{script}</script></body>")


def order(dom: str) -> list[str]:
    rows = re.findall(r"<tr[^>]*data-is[^>]*>.*?</tr>", dom, re.S)
    return [re.search(r'class="name"><bdi>(.*?)</bdi>', row)[1] for row in rows if " hidden=" not in row.split(">")[0]]


@pytest.mark.browser
@needs_browser
def test_in_a_browser(tmp_path):
    entries = stacks()
    entries[4] = replace(entries[4], alike=False, fit=3.0, name=HOSTILE)
    text = page(entries)
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    dom = browse(tmp_path, path, "--dump-dom").decode()
    assert "12 of 12 shown" in dom  # its script runs, as its policy says
    assert "<title>densecell-batch: out, 12 stacks</title>" in dom
    assert "pwned&lt;" not in order(dom)[1]
    clicks = "const buttons = document.querySelectorAll('thead button'); buttons[8].click();"
    path.write_text(driven(text, clicks), encoding="utf-8")
    shown = order(browse(tmp_path, path, "--dump-dom").decode())
    assert shown[:2] == ["cells 11", "cells 10"]  # most objects first
    narrow = "find.value = 'CELLS 7'; find.dispatchEvent(new Event('input'));"
    path.write_text(driven(text, narrow), encoding="utf-8")
    assert order(browse(tmp_path, path, "--dump-dom").decode()) == ["cells 7"]
    narrow = "which.value = 'unlike'; which.dispatchEvent(new Event('change'));"
    path.write_text(driven(text, narrow), encoding="utf-8")
    assert len(order(browse(tmp_path, path, "--dump-dom").decode())) == 1


@pytest.mark.browser
@needs_browser
def test_a_picture_beside_the_page_is_shown_as_its_policy_says(tmp_path):
    Image.new("RGB", (123, 45)).save(tmp_path / "cells 0_preview.png")
    text = page(stacks(1))
    (script,) = re.findall("<script>(.*?)</script>", text, re.S)
    (style,) = re.findall("<style>(.*?)</style>", text, re.S)
    more = (
        script
        + """
        picture.addEventListener("load", () => { document.title = `${picture.naturalWidth} wide`; });
        document.querySelector("a.large").click();
    """
    )
    text = text.replace(script, more)
    policies = [escape(policy(style, one)) for one in (script, more)]
    assert policies[0] in text
    path = tmp_path / "page.html"
    path.write_text(text.replace(*policies), encoding="utf-8")
    dom = browse(tmp_path, path, "--dump-dom", "--virtual-time-budget=5000").decode()
    assert "<title>123 wide</title>" in dom


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_wider_than_the_window(tmp_path, width):
    path = tmp_path / "page.html"
    says = "document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth;"
    path.write_text(driven(page(stacks()), says), encoding="utf-8")
    dom = browse(tmp_path, path, "--dump-dom", f"--window-size={width},900").decode()
    needed, there = map(int, re.search(r"<title>(\d+) of (\d+)</title>", dom).groups())
    assert needed <= there  # Chromium makes no window narrower than 500
    picture = tmp_path / "page.png"
    browse(tmp_path, path, f"--screenshot={picture}", f"--window-size={width},900")
    shown = np.asarray(Image.open(picture).convert("RGB"))
    assert shown.shape == (900, width, 3)
    assert (shown.min(-1) < 200).mean() > 0.02
