"""What MkDocs is told besides mkdocs.yml: the reference is made here; what pages link to outside this folder comes along."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
"""Pages that lie in the repository's root."""

_LINK = re.compile(r"(\]\()((?:\.\./|docs/)[^)#\s]+)")


def on_config(config: Any) -> Any:
    """Anchors are those that the repository's host makes of the same headings."""
    config.mdx_configs["toc"] = {"permalink": "#", "slugify": slug, "toc_depth": 3}
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the reference, the pages of the root, and what pages link to outside this folder."""
    for name, text in reference.pages():
        files.append(File.generated(config, f"reference/{name}", content=text))
    pages = list((ROOT / "docs").glob("*.md"))
    for name in BESIDE:
        if (ROOT / name).exists():
            pages.append(ROOT / name)
            files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    linked = {target for page in pages for _, target in _LINK.findall(page.read_text(encoding="utf-8"))}
    for target in sorted(each.removeprefix("../") for each in linked if each.startswith("../")):
        if (ROOT / target).is_file() and not target.endswith(".md"):
            files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links are the site's: what the root holds lies beside the pages."""
    return _LINK.sub(lambda found: found[1] + found[2].removeprefix("../").removeprefix("docs/"), markdown)


def slug(heading: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)
