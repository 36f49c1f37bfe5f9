"""The checks of a comparison as JUnit XML, which CI systems show beside their other tests."""

import re
from typing import Literal
from xml.etree import ElementTree

from lightning_graceful.report.summary import Check, Summary

Undecided = Literal["report", "pass", "fail"]
# What XML 1.0 cannot hold, escaped or not.
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(summary: Summary, undecided: Undecided = "report") -> str:
    """Write the checks of all candidates as JUnit XML: a suite a candidate, a case a check.

    Args:
        summary: The comparison.
        undecided: What an undecided check is: an error ("report"), a passed case or a failure.

    Returns:
        The XML.
    """
    suites = ElementTree.Element("testsuites", name=_legal(summary.title))
    for candidate in summary.candidates:
        checks = candidate.ruling.checks if candidate.ruling else ()
        suite = ElementTree.SubElement(suites, "testsuite", name=_legal(candidate.name), tests=str(len(checks)))
        kinds = [_case(suite, check, candidate.name, undecided) for check in checks]
        suite.set("failures", str(kinds.count("failure")))
        suite.set("errors", str(kinds.count("error")))
    ElementTree.indent(suites)
    # "unicode" would declare the encoding of this machine's locale.
    written: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return written.decode() + "\n"


def _case(suite: ElementTree.Element, check: Check, candidate: str, undecided: Undecided) -> str:
    name = _legal(f"{check.rule} in {check.where}")
    case = ElementTree.SubElement(suite, "testcase", classname=_legal(candidate), name=name)
    outcome = {
        "accept": "",
        "reject": "failure",
        "undecided": {"report": "error", "fail": "failure"}.get(undecided, ""),
    }
    kind = outcome[check.decision]
    if kind:
        ElementTree.SubElement(case, kind, message=_legal(check.reason), type=check.decision)
    else:
        ElementTree.SubElement(case, "system-out").text = _legal(check.reason)
    return kind


def _legal(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", text)
