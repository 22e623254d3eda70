"""The OpenAPI page: valid, served, of all routes; and what a server does is what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maas_rt.service import Repository, create_app
from maas_rt.service._openapi import page
from maas_rt.service._requests import OPTIONS
from maas_rt.service._settings import LOG_SETTINGS, TRACE_SETTINGS
from tests import _tiny, openapi
from tests.service._serving import serving


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mlp.mrt").write_bytes(_tiny.mlp("batch"))
    return tmp_path / "models"


async def test_the_page_is_served_and_valid(models: Path) -> None:
    async with serving(models) as server:
        status, told, _ = await server.ask("GET", "/openapi.json")
    assert status == 200 and told["openapi"] == "3.1.1"
    validator = pytest.importorskip(
        "openapi_spec_validator", reason="needs openapi-spec-validator, as the extra dev does"
    )
    validator.validate(told)


def test_every_route_is_on_the_page(models: Path) -> None:
    app = create_app(Repository(models), console=False)  # whose routes are its page's own
    told = page(app)
    there = {(route.method, resource.canonical) for resource in app.router.resources() for route in resource}
    on_page = {
        (method.upper(), path) for path, entry in told["paths"].items() for method in entry if method != "parameters"
    }
    assert on_page == {(method, path) for method, path in there if method != "HEAD"}
    identifiers = [
        each["operationId"] for entry in told["paths"].values() for name, each in entry.items() if name != "parameters"
    ]
    assert len(set(identifiers)) == len(identifiers)
    text = json.dumps(told)
    assert all(f'"{name}"' in text for name in (*OPTIONS, *TRACE_SETTINGS, *LOG_SETTINGS))


def test_schemathesis_finds_no_difference(tmp_path: Path) -> None:
    """A short run, of three paths; `make schemathesis` draws thousands of requests, of all."""
    pytest.importorskip("schemathesis", reason="needs schemathesis, as the extra dev does")
    some = "^/v2/(logging|repository/index|models/.model./infer)$"
    status, said, report = openapi.check(tmp_path, "--phases", "coverage", "--include-path-regex", some)
    assert status == 0, said
    assert openapi.requests(report) > 50
