"""The pages in a real browser, opened from disk as a reader would: nothing is fetched, nothing complains."""

from __future__ import annotations

import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.audit.defended import run as defended_run
from holdfast.comparison import compare
from holdfast.defences.gaussian_noise import GaussianNoise
from holdfast.detectors.energy import Energy
from holdfast.explain.questions.gradients import Gradients
from holdfast.explain.questions.restarts import Restarts
from holdfast.records.schema import Finding
from holdfast.report.compared import write_comparison
from holdfast.report.explained import write_explanation
from holdfast.report.index import write_index
from holdfast.report.page import EXPLAIN, render
from holdfast.report.read import read

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from report_fixture import write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")

WIDTHS, SCHEMES = (400, 1280, 2000), ("light", "dark")
AUDIT = ["verdict", "doubts", "curve", "stages", "margins", "gallery", "classes", "samples", "measured", "glossary"]
WHY = ["why-restarts", "why-gradients", "cases"]
PARTS = ["defended", "certified", "detected", "corruptions", "perturbations", "why"]
SECTIONS = {
    "one": AUDIT,
    "two": AUDIT,
    "many": AUDIT,
    "all": [*AUDIT, *PARTS, *WHY],
    "compare": ["verdict", "cautions", "part-1", "changes", "method"],
    "why": WHY,
    "index": ["runs"],
}
LONG = "a_very_long_name_without_any_place_to_break_" * 3


class Sides(nn.Module):
    """Two classes, by which half of the image is brighter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.stack([x[..., :16].mean((1, 2, 3)), x[..., 16:].mean((1, 2, 3))], 1)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs: a, b and c of two kinds of names, all with every part that a run can have."""
    folder = tmp_path_factory.mktemp("runs")
    doubt = Finding(check="masking", level="warning", saw="flat", means="too high", remedy="look")
    write_run(folder / "a", n=120, shape=(3, 16, 16))
    more = {"typical": 20 / 255, "seed": 1, "findings": (doubt,), "command": f"holdfast audit {LONG * 3}"}
    write_run(folder / "b", n=120, shape=(3, 16, 16), name="<script>alert(1)</script>" + LONG, **more)
    names = tuple(f"<script>alert({label})</script>" for label in range(100))
    write_run(folder / "c", n=300, num_classes=100, class_names=names, name=LONG)
    write_run(folder / "all", n=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defended_run, "QUERIES", 4)
        _every_part(folder / "all")
    return folder


def _every_part(out: Path) -> None:
    x = torch.rand(24, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.3
    x[::2, ..., :16] += torch.linspace(0.02, 0.3, 12)[:, None, None, None]
    x[1::2, ..., 16:] += torch.linspace(0.02, 0.3, 12)[:, None, None, None]
    images, held = (x[:12], torch.arange(12) % 2), (x[12:], torch.arange(12) % 2)
    net, linf = Sides(), holdfast.Linf(0.05)
    holdfast.audit_corruptions(net, images, corruptions=["brightness", "contrast"], severities=(2, 5), out=out)
    holdfast.audit_perturbations(net, images, perturbations=["translate"], out=out)
    holdfast.audit_defence(
        net,
        images,
        GaussianNoise(0.1),
        threat=linf,
        out=out,
        steps=2,
        restarts=1,
        budgets=(1, 2),
        evaluations=4,
        tries=2,
    )
    effort = {"steps": 2, "draws": 2, "predict": 20}
    holdfast.audit_smoothing(net, images, sigma=0.25, select=10, estimate=100, out=out, **effort)
    noise = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    holdfast.audit_detectors(
        net, images, {"energy": Energy()}, train=(noise, torch.arange(8) % 2), held=held, threat=linf,
        false_alarms=0.2, steps=2, out=out,
    )  # fmt: skip
    probes = [Restarts(num=2, steps=2, images=2), Gradients(images=2)]
    holdfast.explain(net, images, threat=linf, probes=probes, against={"<b>twin</b>": Sides()}, out=out / EXPLAIN)


@pytest.fixture(scope="module")
def pages(folder) -> dict[str, Path]:
    runs = [folder / name for name in ("a", "b", "c")]
    return {
        "one": render(runs[:1], folder / "a" / "report.html"),
        "two": render(runs[:2], folder / "two.html"),
        "many": render(runs[2:], folder / "many.html"),
        "all": render([folder / "all"], folder / "all" / "report.html"),
        "compare": write_comparison(compare(runs[:2]), folder / "compare.html"),
        "why": write_explanation(folder / "all" / EXPLAIN),
        "index": write_index(folder),
    }


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 1000, "height": 900})
    yield opened
    opened.close()


@pytest.mark.parametrize("name", [*SECTIONS])
def test_a_page_at_every_width_in_both_schemes(page, pages, name):
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(pages[name].as_uri())
    for place in range(page.locator("details:not([open])").count()):
        page.locator("details").nth(place).evaluate("details => details.open = true")
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            _look(page, name, scheme, at=(scheme, width))
    assert [url for url in requests if not url.startswith("data:")] == [pages[name].as_uri()]
    assert complaints == []


def _look(page, name: str, scheme: str, at: tuple[str, int]) -> None:
    for section in SECTIONS[name]:
        assert page.locator(f"#{section}").is_visible(), (*at, section)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0, at
    assert page.evaluate("[...document.images].filter(image => image.complete && !image.naturalWidth).length") == 0, at
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(each => Number(each.tagName[1]))")
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels)), levels
    background = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (background > 200) == (scheme == "light"), at
    if name in ("index", "why"):
        return
    assert page.locator(".chart svg:visible").count() >= 2, at
    assert page.locator(".chart .wide svg:visible").count() * page.locator(".chart .narrow svg:visible").count() == 0, (
        at
    )
    label = page.locator(".chart .role-axis-label text:visible").first
    grey = label.evaluate("text => getComputedStyle(text).fill.match(/\\d+/g).map(Number)[0]")
    assert abs(grey - background) > 80, at  # the charts' texts follow the colour scheme


def test_filter_sort_zoom_and_hover(page, pages, folder):
    page.goto(pages["two"].as_uri())
    run = read(folder / "a")
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
    far = [float(text.removesuffix("/255")) for text in table.locator("tbody td:nth-child(7)").all_inner_texts()]
    assert far == sorted(far) and len(far) > 1
    assert set(far) <= {float(f"{255 * outcome.distance:.3g}") for outcome in few}
    heading.press("Enter")
    assert table.locator("tbody td:nth-child(7)").first.inner_text() == f"{far[-1]:g}/255"
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
    assert page.locator("dialog[open] .triple span").nth(2).inner_text().startswith("difference, amplified")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.activeElement.className") == "enlarge"  # where the reader was

    assert page.locator(".tip:visible").count() == 0
    page.locator(".chart [data-tip^='standard at eps 8/255']:visible").hover()
    assert page.locator(".tip").inner_text().startswith("standard at eps 8/255: ")
    page.locator("h1").hover()
    assert page.locator(".tip:visible").count() == 0


def test_the_index_of_runs(page, pages):
    page.goto(pages["index"].as_uri())
    shown = page.locator("tbody tr:visible")
    assert shown.count() == 10 and page.locator("#count").inner_text() == "10 runs"
    page.get_by_role("button", name="Outcome").click()
    told = [cell.get_attribute("data-value") for cell in page.locator("td:nth-child(7)").all()]
    outcomes = [float(value) for value in told if value]
    assert outcomes == sorted(outcomes) and len(set(outcomes)) > 1
    assert "half within" in page.locator("tr", has_text="certify").inner_text()
    page.locator("#words").fill("audit")
    boxes = page.get_by_role("checkbox")
    boxes.nth(0).check()
    assert not page.locator("#command").is_visible()
    boxes.nth(2).check()
    folders = [boxes.nth(place).get_attribute("value") for place in (0, 2)]
    assert page.locator("#command").inner_text() == f"holdfast compare {' '.join(folders)}"
    page.locator("#words").fill("perturbations")
    assert shown.count() == 1 and page.locator("#count").inner_text() == "1 of 10 runs"


def test_without_its_script_the_page_can_still_be_read(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["one"].as_uri())
    assert page.locator("noscript").count() == 1 and page.locator("#gallery .triple").first.is_visible()
    assert page.locator(".samples").count() == 1 and not page.locator(".samples").is_visible()
    context.close()


def test_the_skip_link_comes_first_and_works(page, pages):
    page.goto(pages["one"].as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    page.keyboard.press("Enter")
    page.wait_for_url("**#verdict")  # the page learns of its own place a moment later


def test_names_are_text_and_what_is_compared_is_listed(page, pages):
    page.goto(pages["why"].as_uri())
    assert page.locator("header b").all_inner_texts() == ["model", "<b>twin</b>"]
    assert page.locator(".drawing svg image").count() and page.locator(".case img").count()
    page.goto(pages["compare"].as_uri())
    assert "masking" in page.locator("#cautions").inner_text()
    page.locator("summary").click()
    assert page.locator("details tbody tr:visible").count() > 20


def test_print_shows_what_is_folded_and_nothing_that_is_cut_off(page, pages):
    page.goto(pages["all"].as_uri())
    page.set_viewport_size({"width": 700, "height": 900})  # A4 between its margins
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("#curve details td").first.is_visible() and not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
