"""The documentation's site is built as the README says, whole, and asks the network for nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.foundation import registry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]  # strict: a broken link is an error
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_menu(site: Path) -> None:
    menu = set(re.findall(r'class="dropdown-item[^"]*"\s*>|href="([^"#]+\.html)"', (site / "index.html").read_text()))
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html")} - {"404.html"}
    assert len(pages) > 30 and pages - menu == set()


def test_the_reference_has_every_registered_name(site: Path) -> None:
    for kind in registry.KINDS:
        page = (site / "reference" / f"{kind}.html").read_text()
        assert [name for name in registry.names(kind) if f'<h2 id="{name}"' not in page] == []


def test_no_page_asks_the_network(site: Path) -> None:
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text()
        asked = re.findall(r'(?:src|<link[^>]*href)="(?:https?:)?//[^"]+|url\(["\']?(?:https?:)?//[^)]+', text)
        assert asked == [], path.name
