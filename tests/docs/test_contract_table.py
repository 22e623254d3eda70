"""docs/kernels.md holds the library's contracts, and says of each what it computes."""

from __future__ import annotations

import re

from maas_rt import _kernels
from tests.docs.contract_table import PAGE, page


def test_the_table_is_what_the_library_says() -> None:
    assert PAGE.read_text() == page(PAGE.read_text()), "run python -m tests.docs.contract_table"


def test_each_contract_is_explained() -> None:
    explained = re.findall(r"`(\w+)`", "".join(re.findall(r"^- (.*?):", PAGE.read_text(), re.M)))
    assert set(_kernels.describe()["contracts"]) <= set(explained)
