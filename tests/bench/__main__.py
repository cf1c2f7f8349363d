"""``python -m tests.bench [NAME]...``: run benchmarks and print their ratios."""

from __future__ import annotations

import importlib
import pkgutil
import sys

from tests import bench
from tests.bench.measure import Report

NO_BENCHMARKS = {"__main__", "measure", "sample"}


def main() -> int:
    known = {m.name for m in pkgutil.iter_modules(bench.__path__)} - NO_BENCHMARKS
    names = sys.argv[1:] or sorted(known)
    if unknown := set(names) - known:
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
        return 2
    report = Report()
    for name in names:
        module = importlib.import_module(f"tests.bench.{name}")
        report.line(f"{name}: {module.SUMMARY}")
        module.run(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
