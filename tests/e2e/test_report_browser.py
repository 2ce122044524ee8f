"""The page in a real browser, opened from disk as a reader would: nothing is fetched, nothing complains."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from holdfast.report import render
from holdfast.report.index import write_index
from holdfast.report.read import read

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from report_fixture import write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")

SECTIONS = ["verdict", "doubts", "curve", "stages", "margins", "gallery", "classes", "samples", "measured", "glossary"]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    long = "a_very_long_name_without_any_place_to_break_" * 3
    write_run(folder / "a", n=120, shape=(3, 16, 16))
    write_run(folder / "b", n=120, shape=(3, 16, 16), name=long, typical=20 / 255, command=f"holdfast audit {long * 3}")
    names = tuple(f"<script>alert({label})</script>" for label in range(100))
    write_run(folder / "c", n=300, num_classes=100, class_names=names, name=long)
    return {
        "one": render([folder / "a"], folder / "one.html"),
        "two": render([folder / "a", folder / "b"], folder / "two.html"),
        "many": render([folder / "c"], folder / "many.html"),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280, 2000])
@pytest.mark.parametrize("name", ["one", "two", "many"])
def test_the_page_in_a_browser(browser, pages, name, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(pages[name].as_uri())

    assert [url for url in requests if not url.startswith("data:")] == [pages[name].as_uri()]
    assert complaints == []
    for section in SECTIONS:
        assert page.locator(f"#{section}").is_visible(), section
        assert page.locator(f"#{section} :is(h1, h2)").first.is_visible(), section
    assert page.locator(".chart svg:visible").count() >= 3
    assert page.locator(".chart .wide svg:visible").count() * page.locator(".chart .narrow svg:visible").count() == 0
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0
    broken = page.evaluate("[...document.images].filter(image => image.complete && !image.naturalWidth).length")
    assert broken == 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (background > 200) == (scheme == "light")
    axis = page.locator(".chart .role-axis-label text:visible").first
    label = axis.evaluate("text => getComputedStyle(text).fill.match(/\\d+/g).map(Number)[0]")
    assert abs(label - background) > 80  # the charts' texts follow the colour scheme
    context.close()


def test_filter_sort_zoom_and_hover(browser, pages):
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.goto(pages["two"].as_uri())
    run = read(pages["two"].parent / "a")
    table = page.locator(".samples").first
    shown = table.locator("tbody tr")
    assert shown.count() == 25 and table.locator("output").inner_text() == "1 to 25 of 120 (120 in all)"
    table.get_by_text("Next").click()
    assert shown.first.locator("td").first.inner_text() == "25"

    table.locator("select[name=outcome]").select_option("broken")
    broken = [outcome for outcome in run.outcomes if outcome.eps is not None and outcome.right]
    assert table.locator("output").inner_text() == f"1 to 25 of {len(broken)} (120 in all)"
    table.locator("select[name=stage]").select_option(label="apgd-t")
    few = [outcome for outcome in broken if outcome.stage == "apgd-t"]
    assert f"of {len(few)} (120 in all)" in table.locator("output").inner_text()
    heading = table.get_by_role("button", name="Distance")
    heading.press("Enter")
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("Distance")
    far = [float(text) for text in table.locator("tbody td:nth-child(7)").all_inner_texts()]
    assert far == sorted(far) and len(far) > 1
    heading.press("Enter")
    assert [float(text) for text in table.locator("tbody td:nth-child(7)").all_inner_texts()] == sorted(far)[::-1]
    table.locator("input[name=id]").fill("no such")
    assert table.locator("output").inner_text() == "none of 120" and shown.count() == 0

    first = page.locator(".enlarge").first
    first.focus()
    page.keyboard.press("Enter")
    caption = page.locator("dialog[open] figcaption").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("dialog[open] figcaption").inner_text() != caption
    page.keyboard.press("ArrowLeft")
    assert page.locator("dialog[open] figcaption").inner_text() == caption
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0

    assert page.locator(".tip:visible").count() == 0
    page.locator(".chart [data-tip^='standard at eps 8/255']:visible").hover()
    assert page.locator(".tip").inner_text().startswith("standard at eps 8/255: ")
    page.locator("h1").hover()
    assert page.locator(".tip:visible").count() == 0
    page.close()


def test_the_index_of_runs(browser, pages):
    index = write_index(pages["one"].parent)
    page = browser.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(index.as_uri())
    shown = page.locator("tbody tr:visible")
    assert shown.count() == 3 and page.locator("#count").inner_text() == "3 runs"
    page.get_by_role("button", name="Outcome").click()
    outcomes = [float(cell.get_attribute("data-value")) for cell in page.locator("td:nth-child(7)").all()]
    assert outcomes == sorted(outcomes) and len(set(outcomes)) > 1
    boxes = page.get_by_role("checkbox")
    boxes.nth(0).check()
    assert not page.locator("#command").is_visible()
    boxes.nth(2).check()
    folders = [boxes.nth(place).get_attribute("value") for place in (0, 2)]
    assert page.locator("#command").inner_text() == f"holdfast compare {' '.join(folders)}"
    page.locator("#words").fill("standard")
    assert shown.count() == 1 and page.locator("#count").inner_text() == "1 of 3 runs"
    assert complaints == []
    page.close()


def test_without_its_script_the_page_can_still_be_read(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["one"].as_uri())
    assert page.locator("noscript").count() == 1 and page.locator("#gallery .triple").first.is_visible()
    assert page.locator(".samples").count() == 1 and not page.locator(".samples").is_visible()
    context.close()


def test_the_skip_link_comes_first_and_works(browser, pages):
    page = browser.new_page()
    page.goto(pages["one"].as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    page.keyboard.press("Enter")
    assert page.url.endswith("#verdict")
    page.close()


@pytest.fixture(scope="module")
def why(tmp_path_factory) -> Path:
    """The page of an explanation with pictures, planes, dots and case files."""
    import holdfast
    from holdfast.explain.questions.decision_boundary import DecisionBoundary
    from holdfast.explain.questions.gradients import Gradients
    from holdfast.explain.questions.restarts import Restarts
    from holdfast.report.explained import write_explanation

    out = tmp_path_factory.mktemp("why")
    probes = [
        Restarts(num=2, steps=2, images=3),
        Gradients(images=6),
        DecisionBoundary(images=6, random=1, steps=3, grid=9),
    ]
    twin = {"<b>twin</b>": holdfast.models.load.load("net:small_cnn", shape=(1, 32, 32))}
    holdfast.explain(
        "net:small_cnn", "digits", threat=holdfast.Linf(0.1), probes=probes, against=twin, limit=6, out=out
    )
    return write_explanation(out)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_of_an_explanation(browser, why, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(why.as_uri())
    assert [url for url in requests if not url.startswith("data:")] == [why.as_uri()] and complaints == []
    for name in ("why-restarts", "why-gradients", "why-decision_boundary", "cases"):
        assert page.locator(f"#{name} h2").is_visible(), name
    assert page.locator("header b").all_inner_texts() == ["model", "<b>twin</b>", "untrained"]  # names are text
    assert page.locator(".drawing svg image").count() > 10 and page.locator(".case img").count() > 10
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    context.close()
