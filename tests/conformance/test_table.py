"""README's table of coverage is what was recorded."""

from __future__ import annotations

from . import table


def test_the_readme_shows_what_was_recorded() -> None:
    assert table.in_readme() == table.table(), "python -m tests.conformance table --update"
