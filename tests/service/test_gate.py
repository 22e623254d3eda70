"""The gate of Core, as a transport without HTTP meets it."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from maas_rt.service._access import Access
from maas_rt.service._audit import Audit
from maas_rt.service._calls import Context
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._gate import Gatekeeper
from maas_rt.service._grants import read_grants
from maas_rt.service._keys import new_key
from maas_rt.service._limiter import Limiter, Limits


@pytest.fixture
def world(tmp_path: Path) -> tuple[Gatekeeper, Context, io.StringIO]:
    """A gate with one request at once for each client, what a client of it sends, and the audit log."""
    file = tmp_path / "keys.json"
    token = new_key(file, "a", read_grants(["infer:m*", "admin:m*", "read:m*"]), time.time_ns())
    noted = io.StringIO()
    gate = Gatekeeper(Access(file), Limiter(Limits(in_flight=1)), Audit(stream=noted))
    return gate, Context(f"Bearer {token}", address="10.0.0.1", request_id="r", call="RepositoryModelLoad"), noted


def refused(gate: Gatekeeper, *call: object) -> Kind:
    with pytest.raises(ServiceError) as caught:
        gate.enter(*call)  # type: ignore[arg-type]
    return caught.value.kind


def test_a_call_is_counted_until_its_end_and_once(world: tuple[Gatekeeper, Context, io.StringIO]) -> None:
    gate, context, _ = world
    assert context.credential is not None and context.credential.split()[1] not in repr(context)
    with gate.enter(context, "infer", "m1") as client:
        assert refused(gate, context, "infer", "m1") is Kind.RATE_LIMITED
        inside = replace(context, client=client)
        with gate.enter(inside, "infer", "m1"), gate.enter(inside, "read", None):
            pass
        assert refused(gate, inside, "infer", "other") is Kind.FORBIDDEN  # a transport that has asked for less
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), gate.enter(context, "infer", "m1"):
            raise ZeroDivisionError
    assert refused(gate, replace(context, credential=None), "infer", "m1") is Kind.UNAUTHENTICATED
    assert [gate.allows(context, "read", name) for name in ("m1", "other")] == [True, False]


def test_administration_is_noted_however_it_ends(world: tuple[Gatekeeper, Context, io.StringIO]) -> None:
    gate, context, noted = world
    with gate.enter(context, "admin", "m1"):
        pass
    with pytest.raises(ServiceError), gate.enter(context, "admin", "m1"):
        raise ServiceError(Kind.NOT_FOUND, "no")
    assert refused(gate, context, "admin", None) is Kind.FORBIDDEN
    assert refused(gate, replace(context, credential="Bearer x"), "admin", "m1") is Kind.UNAUTHENTICATED
    with gate.enter(context, "read", "m1"):
        pass
    lines = [json.loads(line) for line in noted.getvalue().splitlines()]
    assert [line["outcome"] for line in lines] == ["ok", "not_found", "forbidden", "unauthenticated"]
    assert {line["event"] for line in lines} == {"RepositoryModelLoad"} and lines[0]["request_id"] == "r"
    assert context.credential is not None and context.credential.split()[1] not in noted.getvalue()


def test_an_address_whose_tokens_fail_is_slowed_down_and_fills_no_log(tmp_path: Path) -> None:
    clock, noted, file = [time.time_ns()], io.StringIO(), tmp_path / "keys.json"
    token = new_key(file, "a", read_grants(["admin"]), clock[0])
    gate = Gatekeeper(Access(file), audit=Audit(stream=noted), now=lambda: clock[0])
    stranger = Context("Bearer x", address="10.0.0.1", call="load")
    kinds = [refused(gate, stranger, "admin", "m") for _ in range(60)]
    assert kinds == [Kind.UNAUTHENTICATED] * 50 + [Kind.RATE_LIMITED] * 10
    assert len(noted.getvalue().splitlines()) == 50
    assert refused(gate, replace(stranger, address="10.0.0.2"), "admin", "m") is Kind.UNAUTHENTICATED
    with gate.enter(replace(stranger, credential=f"Bearer {token}"), "admin", "m"):
        pass  # who has a token is none of them
    clock[0] += 100_000_000
    assert refused(gate, stranger, "infer", "m") is Kind.UNAUTHENTICATED
