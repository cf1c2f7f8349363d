"""The closure: what a bundle's files load or run, worked out without running them, and judged by rules.

>>> report = verify(tree, Scope("/.deps/shell/1", ("/.deps/rt/1",), architecture))
>>> report.ok, report.violations
"""

from bundler.closure.report import Report, Scope, Violation, to_json, to_text
from bundler.closure.rules import Rule, Severity, rules
from bundler.closure.verify import MissingBundle, verify

__all__ = [
    "MissingBundle",
    "Report",
    "Rule",
    "Scope",
    "Severity",
    "Violation",
    "rules",
    "to_json",
    "to_text",
    "verify",
]
