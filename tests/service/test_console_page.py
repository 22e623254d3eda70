"""The console as a person uses it, in a headless Chromium: to see and to change models, to run them, by keyboard, on a phone, in the dark."""

from __future__ import annotations

import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maas_rt.service._access import Access
from maas_rt.service._gate import Gatekeeper
from maas_rt.service._grants import read_grants
from maas_rt.service._keys import new_key
from tests import _tiny
from tests.service._serving import Served, serving_beside
from tests.service._versions import times

playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="carries axe-core: pip install axe-playwright-python"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

HOSTILE = "<img src=x onerror=hacked=1>"
PATIENCE = 120_000  # milliseconds, on a busy machine


def _softmax(name: str) -> bytes:
    """A picture [1, 1, 8, 8] to its softmax by rows; the names of its tensors are the argument's."""
    b = _tiny.Builder(name)
    x, y = b.input(name, [1, 1, 8, 8]), b.value(f"{name} y", [1, 1, 8, 8])
    b.kernel("softmax_f32", [x], [y])
    return b.file(y)


def _png(value: int, side: int = 16) -> bytes:
    """A grey square."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([value] * side)) * side
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    for version in ("1", "2"):
        (folder / "mlp" / version).mkdir(parents=True)
        (folder / "mlp" / version / "model.mrt").write_bytes(_tiny.mlp("batch"))
    (folder / "strings.mrt").write_bytes(_tiny.strings())
    for name in (HOSTILE, "a?b#c%2e%2e&d", "\"'><svg onload=hacked=1>"):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.mrt").write_bytes(_softmax(HOSTILE))
    (folder / "broken" / "3").mkdir(parents=True)
    (folder / "broken" / "3" / "model.mrt").write_bytes(b"junk")
    with serving_beside(folder) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Any]:
    """A tab of its own, that fails on whatever the console logs or throws."""
    yield from _tab(browser, server)


def _tab(browser: Any, server: Served, **options: Any) -> Iterator[Any]:
    context = browser.new_context(base_url=f"http://127.0.0.1:{server.port}/", **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if "Failed to load" not in message.text else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    yield page
    hacked = page.evaluate("typeof hacked")
    context.close()
    assert (faults, hacked) == ([], "undefined")


def _open(page: Any, model: str = "") -> None:
    page.goto("/")
    page.locator("main table").wait_for()
    if model:
        page.locator("#models").get_by_text(model, exact=True).click()
        page.locator(".card").wait_for()


def _told(page: Any, text: str) -> None:
    page.locator("#status", has_text=text).wait_for()


def _faults(page: Any) -> list[str]:
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html']}"
        for each in found
        if each["impact"] in ("serious", "critical", "moderate")
    ]


def test_models_are_seen_loaded_labelled_and_rolled_back(page: Any, server: Served) -> None:
    _open(page)
    rows = page.locator("main tbody tr")
    assert rows.count() == 7
    assert "not served" in page.locator("tr", has_text="broken").inner_text()
    page.locator("#models").get_by_text("mlp", exact=True).click()
    page.get_by_role("button", name="Set a label").click()
    page.get_by_label("On", exact=True).select_option("1")
    page.get_by_role("button", name="Set", exact=True).click()
    _told(page, "Label production is on version 1.")
    page.get_by_role("button", name="Move label production").click()
    page.get_by_label("On", exact=True).select_option("2")
    page.get_by_role("button", name="Set", exact=True).click()
    _told(page, "on version 2.")
    assert server.core.repository.labels("mlp") == {"production": "2"}
    page.get_by_role("button", name="Roll back label production").click()
    page.locator("dialog").get_by_role("button", name="Roll back").click()
    _told(page, "rolled back")
    assert server.core.repository.labels("mlp") == {"production": "1"}
    page.get_by_role("button", name="Unload").click()
    page.locator("dialog").get_by_role("button", name="Unload").click()
    _told(page, "is unloaded")
    assert "mlp" not in server.core.repository.names()
    page.get_by_role("button", name="Load", exact=True).click()
    _told(page, "is loaded")
    page.locator(".run").wait_for()
    assert server.core.repository.versions("mlp") == ["1", "2"]


def test_a_model_runs_on_json_and_the_charts_and_the_profile_tell_of_it(page: Any) -> None:
    _open(page, "mlp")
    page.get_by_role("button", name="Random numbers").click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".ranking").wait_for()
    assert page.locator(".ranking tbody tr").count() == 8
    page.get_by_label("Table", exact=True).check()
    assert page.locator(".cells td").count() == 8
    page.locator(".chart", has_text="Latency").get_by_text("–").first.wait_for(state="detached")
    assert "at most" in page.locator(".chart svg").first.get_attribute("aria-label")
    page.get_by_label("Request", exact=True).fill('{"inputs": []}')
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".note.error", has_text="missing input 'x'").wait_for()
    page.get_by_role("button", name="Profile a run").click()
    page.locator(".profile td", has_text="gemm").first.wait_for()
    assert (
        page.get_by_label("Request", exact=True).input_value() == '{"inputs": []}'
    )  # what was typed outlives the looks at the server


def test_a_model_runs_on_text(page: Any) -> None:
    _open(page, "strings")
    page.get_by_label("a", exact=True).fill("one\n<b>")
    page.get_by_label("b", exact=True).fill("two\nsix")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".cells").wait_for()
    assert page.locator(".cells td").all_inner_texts() == ["one", "<b>", "two", "six"]


def test_a_model_runs_on_a_picture_under_hostile_names(page: Any, tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(_png(128))
    _open(page, HOSTILE)
    assert page.locator("h1").inner_text() == HOSTILE and HOSTILE in page.locator(".card dd").first.inner_text()
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".note.error", has_text="Choose a picture first").wait_for()
    page.locator("input[type=file]").set_input_files(tmp_path / "grey.png")
    page.locator("canvas[aria-label*='8 by 8']").wait_for()
    page.get_by_label("−1 to 1").check()
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".output canvas").wait_for()
    page.get_by_label("Table", exact=True).check()
    assert set(page.locator(".cells td").all_inner_texts()) == {"0.125"}
    for name in ("a?b#c%2e%2e&d", "\"'><svg onload=hacked=1>"):
        page.locator("#models").get_by_text(name, exact=True).click()
        page.locator("h1", has_text=name).wait_for()
        page.locator(".card").wait_for()


def test_a_token_stays_in_its_tab(browser: Any, server: Served, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    token = new_key(keys, "reader", read_grants(["read"]), time.time_ns())
    with serving_beside(server.core.repository._catalogue.root, gate=Gatekeeper(Access(keys))) as guarded:
        for page in _tab(browser, guarded):
            page.goto("/#/mlp")
            page.get_by_label("Token", exact=True).fill("mrt_wrong")
            page.get_by_role("button", name="Sign in").click()
            page.locator("[role=alert]").wait_for()
            page.get_by_label("Token", exact=True).fill(token)
            page.keyboard.press("Enter")
            page.locator(".card").wait_for()
            assert page.get_by_role("button", name="Unload").count() == page.locator(".run, .profile").count() == 0
            stored = page.evaluate(
                "[Object.values(sessionStorage), JSON.stringify(localStorage), document.cookie, location.href]"
            )
            assert stored[0] == [token] and token not in str(stored[1:])
            assert token not in page.content()
            page.get_by_role("button", name="Sign out").click()
            page.locator("dialog").get_by_role("button", name="Sign out").click()
            page.get_by_label("Token", exact=True).wait_for()
            assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_out(browser: Any, server: Served, scheme: str) -> None:
    faults = []
    for page in _tab(browser, server, color_scheme=scheme, viewport={"width": 360, "height": 740}):
        for model in ("", "mlp", HOSTILE):
            _open(page, model)
            if model == "mlp":
                page.get_by_role("button", name="Run", exact=True).click()
                page.locator(".output").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            faults += _faults(page)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 18, 22)"
        assert dark == (scheme == "dark")
        page.get_by_role("button", name="Theme").click()
        page.get_by_role("button", name="Theme: light").click()
        page.get_by_role("button", name="Theme: dark").wait_for()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 18, 22)"
        page.set_viewport_size({"width": 1280, "height": 800})
        _open(page, "mlp")
        page.get_by_role("button", name="Unload").click()
        assert faults + _faults(page) == []


def test_the_keyboard_is_enough(page: Any) -> None:
    _open(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    link = page.locator("#models").get_by_text("mlp", exact=True)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.key") == "nav mlp":
            break
    page.keyboard.press("Enter")
    page.locator(".run").wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H1" and link.count() == 1
    page.get_by_role("button", name="Unload").focus()
    page.keyboard.press("Enter")
    page.locator("dialog[open]").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")
    assert page.evaluate("document.activeElement.dataset.key") == "unload"


def test_a_pipelines_card_shows_its_steps(browser: Any, tmp_path: Path) -> None:
    for name, first, second in (("encoder", "x", "y"), ("head", "h", "p")):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.mrt").write_bytes(times(2, rows="n", names=(first, second)))
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe" / "config.toml").write_text(
        '[[pipeline.step]]\nname = "embed"\nmodel = "encoder"\ninputs = {x = "text"}\n'
        '[[pipeline.step]]\nmodel = "head"\ninputs = {h = "embed.y"}\n[pipeline.outputs]\nprobs = "head.p"\n'
    )
    with serving_beside(tmp_path) as server:
        for page in _tab(browser, server):
            _open(page, "pipe")
            card = page.locator(".card").inner_text()
            assert "embed encoder, version 1: x = text" in card and "head head, version 1: h = embed.y" in card
            assert "text" in card and "probs" in card and "Hash" not in card and "Profile" not in card
            page.get_by_role("button", name="Random numbers").click()
            page.get_by_role("button", name="Run", exact=True).click()
            page.locator(".output").wait_for()
            assert _faults(page) == []
