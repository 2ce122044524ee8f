"""A verdict for other programs: JUnit XML, and the Markdown of a GitHub step summary."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from pathlib import Path

from holdfast.foundation.errors import HoldfastError
from holdfast.foundation.text import visible
from holdfast.gate.verdict import Judged, Verdict
from holdfast.records.files import storing, write_atomic
from holdfast.report.wording import markdown

_NO_XML = re.compile("[\ufffe\uffff]")  # beside what cannot be seen


def figure(judged: Judged) -> str:
    """A figure in words, in the unit that was asked for: ``0.452 (0.409 to 0.496), n = 500`` or ``45.2 % (...)``."""

    def told(value: float) -> str:
        return f"{100 * value:.1f}" if judged.asked.endswith("%") else f"{value:.3f}"

    unit = " %" if judged.asked.endswith("%") else ""
    around = "" if judged.low is None or judged.high is None else f" ({told(judged.low)} to {told(judged.high)})"
    what = f"{judged.what}: " if judged.what else ""
    return f"{what}{told(judged.value)}{unit}{around}, n = {judged.n}"


def outcome(judged: Judged) -> str:
    """``met`` or ``missed``, and whether the choice of images could have turned it."""
    return ("met" if judged.met else "missed") + ("" if judged.clear else ", but the interval reaches across")


def write_junit(path: Path, run: str, verdict: Verdict | None, error: HoldfastError | None = None) -> None:
    """Writes a test suite: a case for every requirement, and one for the doubts or for the ``error`` that came instead.

    Raises:
        StorageError: it cannot be written.
    """
    suite = xml.Element("testsuite", name="holdfast gate")
    judged = verdict.judged if verdict else ()
    for each in judged:
        case = xml.SubElement(suite, "testcase", classname=_plain(run), name=_plain(each.asked))
        if not each.met:
            xml.SubElement(case, "failure", message=_plain(f"missed: {figure(each)}"))
        xml.SubElement(case, "system-out").text = _plain(f"{outcome(each)}: {figure(each)}")
    case = xml.SubElement(suite, "testcase", classname=_plain(run), name="the run can be believed")
    reasons = [f"{doubt.check}: {doubt.saw}" for doubt in verdict.doubts] if verdict else [f"{error}"]
    if reasons:
        xml.SubElement(case, "error", message=_plain(reasons[0])).text = _plain("\n".join(reasons))
    failures = sum(not each.met for each in judged)
    counts = {"tests": str(len(judged) + 1), "failures": str(failures), "errors": str(int(bool(reasons)))}
    suite.attrib.update(counts)
    root = xml.Element("testsuites", counts)
    root.append(suite)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, [xml.tostring(root, encoding="utf-8", xml_declaration=True)])


def append_summary(path: Path, run: str, verdict: Verdict | None, error: HoldfastError | None = None) -> None:
    """Appends the verdict, or the ``error`` that came instead, to a Markdown file, as GitHub shows it with a job.

    Raises:
        StorageError: it cannot be written.
    """
    lines = [f"### holdfast gate: {markdown(verdict.name if verdict else run)}", ""]
    if verdict is None:
        lines += [markdown(str(error)), ""]
    else:
        lines += [f"**{verdict.words.capitalize()}.** Judged by {verdict.bound}.", ""]
        lines += ["| required | figure | |", "|---|---|---|"]
        lines += [f"| {markdown(j.asked)} | {markdown(figure(j))} | {outcome(j)} |" for j in verdict.judged]
        lines += ["", *(f"- {d.level}: {markdown(f'{d.check}: {d.saw}. {d.means}')}" for d in verdict.doubts), ""]
        lines += [f"- accepted: {markdown(f'{d.check}: {d.saw}')}" for d in verdict.accepted]
    with storing(path), path.open("a", encoding="utf-8", errors="replace") as file:
        file.write("\n".join(lines) + "\n")


def _plain(text: str) -> str:
    """Text that XML can hold."""
    return visible(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", text), keep="\n\t")
