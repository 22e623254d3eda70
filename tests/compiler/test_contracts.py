"""The compiler's table of kernel contracts is held to what the library has."""

from __future__ import annotations

from maas_rt.compiler.spec._contracts import CONTRACTS

from maas_rt import _kernels


def test_the_table_names_the_contracts_and_packings_of_the_library() -> None:
    library = _kernels.describe()["contracts"]
    assert {name: [c.packing] if c.packing else [] for name, c in CONTRACTS.items()} == {
        name: contract["packings"] for name, contract in library.items()
    }
