"""The console's own paths, as whatever asks over HTTP meets them; what a person sees of it is in test_console_page."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from maas_rt._container import read_table
from maas_rt.service import _cards
from maas_rt.service._access import Access
from maas_rt.service._audit import Audit
from maas_rt.service._gate import Gatekeeper
from maas_rt.service._grants import read_grants
from maas_rt.service._keys import new_key
from maas_rt.service._limiter import Limiter, Limits
from tests import _tiny
from tests.service._serving import Served, serving

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
CONSOLE = Path(_cards.__file__).parent / "console"
ROW = {"inputs": [{"name": "x", "shape": [2, 16], "datatype": "FP32", "data": [0.5] * 32}]}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for version in ("1", "2"):
        (folder / "mlp" / version).mkdir(parents=True)
        (folder / "mlp" / version / "model.mrt").write_bytes(_tiny.mlp("batch"))
    (folder / "mlp" / "config.toml").write_text("max_batch_size = 4\n[labels]\nproduction = 1\n")
    (folder / "sum.mrt").write_bytes(_tiny.accumulator())
    (folder / "endless.mrt").write_bytes(_tiny.endless())
    return folder


async def _page(server: Served, path: str, **headers: str) -> tuple[int, str, Any]:
    async with server.session.get(path, headers=headers) as response:
        return response.status, await response.text(), response.headers


async def test_browsers_get_a_page_and_everybody_else_what_they_got_before(models: Path) -> None:
    async with serving(models) as server:
        status, page, headers = await _page(server, "/", **BROWSER)
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8") and "maas-rt console" in page
        for accepted in ("*/*", "application/json", ""):
            status, document, _ = await server.ask("GET", "/", headers={"Accept": accepted})
            assert (status, document) == (404, {"error": "GET '/': Not Found"})
        assert (await server.ask("GET", "/console/nothing.js"))[0] == 404
        assert (await _page(server, "/", **BROWSER, **{"If-None-Match": headers["ETag"]}))[:2] == (304, "")
    async with serving(models, console=False) as server:
        for path in ("/", "/console/main.js", "/console/overview", "/console/models/mlp/versions/1"):
            assert (await _page(server, path, **BROWSER))[0] == 404


async def test_a_page_runs_nothing_but_the_server_s_own_files(models: Path) -> None:
    async with serving(models) as server:
        _, page, headers = await _page(server, "/", **BROWSER)
        policy = dict(each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in str(policy)
        assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
        assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=|https?://", page)
        for path in re.findall(r'(?:src|href)="(console/[^"]+)"', page):
            assert (await _page(server, "/" + path))[0] == 200, path


def test_the_console_s_files_parse_no_html_and_fetch_nothing_from_elsewhere() -> None:
    files = {each.name: each.read_text(encoding="utf-8") for each in CONSOLE.iterdir()}
    assert {"index.html", "console.css", "main.js"} <= set(files)
    for name, text in files.items():
        text = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|https?:", text
        ), name


async def test_the_overview_shows_what_a_token_may_see_and_do(models: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    reader = new_key(keys, "reader", read_grants(["read:m*", "infer:m*"]), time.time_ns())
    admin = new_key(keys, "admin", read_grants(["read", "admin"]), time.time_ns())
    noted = io.StringIO()
    async with serving(models, gate=Gatekeeper(Access(keys), Limiter(Limits()), Audit(stream=noted))) as server:
        assert (await server.ask("GET", "/console/overview"))[0] == 401
        assert (await _page(server, "/", **BROWSER))[0] == (await _page(server, "/console/main.js"))[0] == 200
        as_reader = {"Authorization": f"Bearer {reader}"}
        assert (await server.ask("POST", "/v2/models/mlp/infer", json=ROW, headers=as_reader))[0] == 200
        _, found, _ = await server.ask("GET", "/console/overview", headers=as_reader)
        (mlp,) = found["models"]
        assert (mlp["name"], mlp["may"], mlp["labels"]) == ("mlp", ["infer", "read"], {"production": "1"})
        assert [(each["version"], each["state"], each["reason"]) for each in mlp["versions"]] == [
            ("1", "READY", ""),
            ("2", "READY", ""),
        ]
        counts = mlp["versions"][0]["counts"]
        assert (counts["requests"], counts["rows"], counts["errors"], counts["in_flight"]) == (1, 2, {}, 0)
        assert sum(counts["request"]["counts"]) == 1 and counts["request"]["sum"] > 0
        assert len(counts["request"]["counts"]) == len(found["bounds"]["seconds"]) + 1
        assert counts["batch"]["sum"] == 2 and mlp["versions"][1]["counts"] is None
        assert found["server"]["ready"] and found["client"].startswith("key:")
        assert (await server.ask("GET", "/console/models/sum/versions/1", headers=as_reader))[0] == 403
        profile = "/console/models/mlp/versions/1/profile"
        assert (await server.ask("POST", profile, headers=as_reader))[0] == 403
        as_admin = {"Authorization": f"Bearer {admin}"}
        _, found, _ = await server.ask("GET", "/console/overview", headers=as_admin)
        assert [(each["name"], each["may"]) for each in found["models"]] == [
            (name, ["read", "admin"]) for name in ("endless", "mlp", "sum")
        ]
        assert (await server.ask("POST", profile, headers=as_admin))[0] == 200
    lines = [json.loads(line) for line in noted.getvalue().splitlines()]
    assert [(line["event"], line["outcome"]) for line in lines] == [
        (f"POST {profile}", "forbidden"),
        (f"POST {profile}", "ok"),
    ]


async def test_a_card_says_what_a_file_is(models: Path) -> None:
    async with serving(models) as server:
        status, found, _ = await server.ask("GET", "/console/models/mlp/versions/2")
        assert status == 200
        assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16], "dims": ["batch", 16]}]
        file = models / "mlp" / "2" / "model.mrt"
        table = read_table(file)
        assert table is not None
        assert (found["file"]["hash"], found["file"]["bytes"]) == (table.hash.hex(), file.stat().st_size)
        assert [each["kind"] for each in found["file"]["sections"]] == ["manifest", "plan", "weights"]
        assert found["verified"] == {"status": "skipped"} and found["recipe"] is None
        file.with_name("other").write_bytes(_tiny.accumulator())
        file.with_name("other").replace(file)  # what lies there now is not what serves
        _, found, _ = await server.ask("GET", "/console/models/mlp/versions/2")
        assert (found["file"]["hash"], found["file"]["bytes"]) == (table.hash.hex(), None)
        assert (await server.ask("GET", "/console/models/mlp/versions/7"))[0] == 404


async def test_a_profile_names_steps_and_ends_in_time(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(models) as server:
        status, found, _ = await server.ask("POST", "/console/models/mlp/versions/1/profile", json={})
        assert (status, found["inputs"]) == (200, {"x": [1, 16]})
        assert [each["kernel"].partition("_")[0] for each in found["steps"]] == ["gemm", "gemm"]
        assert 0 < found["steps"][0]["ns"] <= found["total_ns"]
        assert (await server.ask("POST", "/console/models/sum/versions/1/profile"))[0] == 200  # on its initial states
        monkeypatch.setattr(_cards, "_SECONDS", 0.05)
        assert (await server.ask("POST", "/console/models/endless/versions/1/profile"))[0] == 504
