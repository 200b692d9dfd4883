"""The pages of the site that lie outside docs/, and links from docs/ to other files of the project."""

import re
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]


def on_config(config: MkDocsConfig) -> None:
    """The address of the repository stands in pyproject.toml alone."""
    config.repo_url = URLS.get("Repository")
    config.repo_name = "Repository" if config.repo_url else None


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Pages for those who change the code."""
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to what has no page lead to the repository."""
    if "/" in page.file.src_uri:
        return markdown
    link = rf"[\1]({config.repo_url}/blob/main/\2)" if config.repo_url else r"\1"
    return re.sub(r"\[([^]]+)\]\(\.\./([^)]+)\)", link, markdown)
