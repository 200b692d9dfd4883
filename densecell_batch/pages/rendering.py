"""How pages are made: templates that escape, parts that go in as they are, and the policy that a page carries.

What is shown goes through `printable`, here in templates `|shown`.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from densecell_batch._version import __version__
from densecell_batch.printable import printable

__all__ = ["policy", "render"]

_TEMPLATES = Path(__file__).parent / "templates"


def render(name: str, **values: object) -> str:
    """A page of the template NAME.html, with the style NAME.css after that of all pages, and the script NAME.js.

    A template finds its `style`, its `script` ("" if there is none) and its `policy` beside the values.
    """
    style = Markup("").join([_part("base.css"), _part(f"{name}.css")])
    script = _part(f"{name}.js") if (_TEMPLATES / f"{name}.js").exists() else Markup("")
    template = _environment().get_template(f"{name}.html")
    return template.render(style=style, script=script, policy=policy(style, script), version=__version__, **values)


def policy(style: str, script: str) -> str:
    """What a browser may do: use this style and script, show pictures of the page and beside it; nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "img-src 'self' data: file:; base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["shown"] = printable
    made.filters["data"] = lambda content: "data:image/jpeg;base64," + base64.b64encode(content).decode()
    return made


@cache
def _part(name: str) -> Markup:
    """A file that goes into a page as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))
