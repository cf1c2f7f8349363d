"""A short run of the fuzzer, and every case that once failed."""

from __future__ import annotations

import os

import fuzz


def test_found_cases_stay_fixed() -> None:
    for case in fuzz.found_cases():
        fuzz.attempt(case, with_verifier=True)


def test_a_short_run() -> None:
    """``BUNDLE_FUZZ_CASES`` makes it longer; a case that fails is in the error's note."""
    cases = int(os.environ.get("BUNDLE_FUZZ_CASES", "4000"))
    outcomes = fuzz.run(cases, seed=int(os.environ.get("BUNDLE_FUZZ_SEED", "1")), save=None)
    patched = sum(count for outcome, count in outcomes.items() if outcome.startswith("patched"))
    assert patched > cases // 2 and outcomes["refused"] > cases // 10, outcomes
