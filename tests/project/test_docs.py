"""The documentation as a site: links lead somewhere, nothing is loaded from elsewhere, all public names are there."""

import os
import re
import subprocess
import sys

import pytest
from images import ROOT

import densecell_batch

pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")

# No data of others are in them.
NOBODYS = {
    "fly-vnc-curves.png",
    "fly-vnc-2d3d-curves.png",
    "fly-vnc-fast-curves.png",
    "example-curves.png",
    "fiji-dialog.png",
    "fiji-progress.png",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def build(source, folder):
    """As `make docs` does."""
    (words,) = re.findall(r"-m (mkdocs build .*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", *words.split(), "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=source, env=environment)


def test_a_link_that_leads_nowhere_is_an_error(tmp_path):
    """With --quiet, mkdocs counts no warnings, and --strict lets all pass."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text("site_name: a\n")
    for text, code in (("[a](index.md)", 0), ("[a](gone.md)", 1), ("![a](gone.png)", 1)):
        (tmp_path / "docs/index.md").write_text(text)
        done = build(tmp_path, tmp_path / "site")
        assert done.returncode == code, text + done.stderr


def test_every_public_name_is_described(site):
    """A name that the site's reader of the source cannot follow, or without a docstring, is left out in silence."""
    page = (site / "api.html").read_text(encoding="utf-8")
    for name in densecell_batch.__all__:
        assert name.startswith("__") or name.isupper() or f'id="densecell_batch.{name}"' in page, name


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert not re.search(r'<(?:link|script|img)[^>]* (?:href|src)="?(?:https?:)?//', page.read_text("utf-8")), page


def test_lists_and_tables_are_shown_as_such(site):
    """One that begins without an empty line above it is part of the paragraph."""
    for page in site.rglob("*.html"):
        assert not re.search(r"^([*-] |\d\. |\|.*\|$|```)", page.read_text("utf-8"), re.M), page


def test_the_first_page_shows_the_way_to_each_page(site):
    """Of a page that is named in mkdocs.yml alone nobody hears who does not read the menu."""
    text = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/**/*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name.startswith(("design/", "pictures/", "index.")) or f"]({name})" in text, name
    shown = (site / "index.html").read_text(encoding="utf-8")
    assert 'src="pictures/first.png"' in shown
    assert 'href="install.html"' in shown  # a page on the disk: of a folder a browser shows a list of its files
    assert (site / "pictures/first.png").stat().st_size < 400_000


def test_each_picture_has_its_terms():
    """Pictures are made from data of others."""
    terms = (ROOT / "docs/pictures/TERMS.md").read_text(encoding="utf-8")
    for picture in (ROOT / "docs/pictures").glob("*.png"):
        assert f"`{picture.name}`" in terms or picture.name in NOBODYS, picture.name
