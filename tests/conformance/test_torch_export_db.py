"""torch's export database: every supported case compiles and agrees with eager torch."""

from __future__ import annotations

import pytest

from tests.conformance.torch_export_db import run_case, supported_cases

CASES = supported_cases()


def test_there_are_as_many_cases_as_ever() -> None:
    assert len(CASES) >= 35


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    outcome = run_case(name, CASES[name])
    assert outcome.result == "pass", outcome.message
