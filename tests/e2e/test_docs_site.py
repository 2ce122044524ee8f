"""The documentation's site is built as the README says, whole, and asks the network for nothing."""

import os
import re
import shutil
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


def test_the_scripts_of_the_theme_run_and_its_inner_menus_open(site: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((site / "howto" / "index.html").as_uri())
        page.locator("a.dropdown-toggle", has_text="How to").click()
        page.locator(".dropdown-submenu > a", has_text="Measure").click()
        page.locator("a.dropdown-item", has_text="Worst case").wait_for(state="visible")
        browser.close()
    assert errors == []


def test_the_reference_has_every_registered_name(site: Path) -> None:
    for kind in registry.KINDS:
        page = (site / "reference" / f"{kind}.html").read_text()
        assert [name for name in registry.names(kind) if f'<h2 id="{name}"' not in page] == []


def test_no_page_asks_the_network(site: Path) -> None:
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text()
        asked = re.findall(r'(?:src|<link[^>]*href)="(?:https?:)?//[^"]+|url\(["\']?(?:https?:)?//[^)]+', text)
        assert asked == [], path.name
