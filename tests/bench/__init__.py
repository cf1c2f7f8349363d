"""Benchmarks: each prints ratios against a named peer that was measured in the same run.

    python -m tests.bench            all of them
    python -m tests.bench noop pack  some

A benchmark is a module here with SUMMARY and ``run(report)``; see ``measure.py``.
"""
