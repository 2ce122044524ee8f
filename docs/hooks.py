"""What MkDocs is told besides mkdocs.yml: the reference is made here; what pages link to outside this folder comes along."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
"""Pages that lie in the repository's root."""

_LINK = re.compile(r"(\]\()((?:\.\./|docs/)[^)#\s]+)")

_STYLES = '<style id="hljs-light"></style><style id="hljs-dark"></style>'
_SEARCH = '<div id="mkdocs_search_modal" class="modal"><div id="mkdocs-search-results"></div></div>'
"""Empty stand-ins for what the theme leaves out with its highlighter and its search, which need the network or a server."""


def on_config(config: Any) -> Any:
    """Anchors are those that the repository's host makes of the same headings."""
    config.mdx_configs["toc"] = {"permalink": "#", "slugify": slug, "toc_depth": 3}
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the reference, the pages of the root, and what pages link to outside this folder."""
    for name, text in reference.pages():
        files.append(File.generated(config, f"reference/{name}", content=text))
    pages = {str(path.relative_to(ROOT / "docs")): path for path in (ROOT / "docs").rglob("*.md")}
    for name in BESIDE:
        if (ROOT / name).exists():
            pages[name] = ROOT / name
            files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    linked = {
        _place(page, target)
        for page, path in pages.items()
        for _, target in _LINK.findall(path.read_text(encoding="utf-8"))
    }
    for target in sorted(linked):
        if (ROOT / target).is_file() and not target.endswith(".md"):
            files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Links are the site's: what the root holds lies beside the pages."""
    here = page.file.src_uri
    return _LINK.sub(
        lambda found: found[1] + Path(os.path.relpath(_place(here, found[2]), Path(here).parent)).as_posix(), markdown
    )


def on_post_page(output: str, **_: Any) -> str:
    """The theme's scripts stop where these are missing, and with them menus in menus and the choice of light or dark."""
    return output.replace("</head>", f"{_STYLES}</head>", 1).replace("</body>", f"{_SEARCH}</body>", 1)


def _place(page: str, target: str) -> str:
    """Where on the site, from its root, a link of a page leads."""
    home = ROOT if page in BESIDE else ROOT / "docs"
    found = Path(os.path.normpath((home / page).parent / target))
    return found.relative_to(ROOT / "docs" if found.is_relative_to(ROOT / "docs") else ROOT).as_posix()


def slug(heading: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)
