"""The page in a headless Chromium: add, ask, delete, errors, keyboard, narrow, dark, ten thousand items."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve.test_server import Running
from store.conftest import QUESTION

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)

# ruff: noqa: E402
from comem.serve.app import build_app
from comem.serve.settings import Keys, ServeSettings
from comem.toy.draw import png


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, remembered) -> Iterator[object]:
    server = Running(build_app(remembered, ServeSettings(Path("trip"), ui=True), Keys({})))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(30_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if "Content Security" in line.text else None)
    page.goto(server.url)
    yield page
    page.close()
    server.close()
    assert faults == []


def test_ask_in_three_modes_delete_and_ask_again(page, towns, tmp_path: Path) -> None:
    expect = sync_api.expect
    expect(page.locator("#count")).to_have_text("6 items")
    expect(page.locator("#items .item")).to_have_count(6)
    expect(page.locator("#items .thumb img").first).to_be_visible()
    asked = tmp_path / "asked.png"
    asked.write_bytes(png(towns[0], 1))
    page.locator("#ask-file").set_input_files(asked)
    page.locator("#question").fill(QUESTION)
    page.locator("#question").press("Enter")
    expect(page.locator(".answer[data-mode=comem] .said")).to_have_text(towns[0].value("stone"))
    expect(page.locator(".answer .cost").filter(has_text="ms to the first word")).to_have_count(3)
    assert "24 of them items" in page.locator(".answer[data-mode=comem] .cost").inner_text()
    first = page.locator("#sources .item").first
    expect(first.locator(".text")).to_contain_text(towns[0].name)
    expect(first.locator(".facts")).to_contain_text(re.compile(r"score 0\.\d\d · attention \d"))
    first.locator(".delete").click()
    expect(page.locator("#count")).to_have_text("5 items")
    expect(page.locator("#sources .item").first).not_to_contain_text(towns[0].name)
    expect(page.locator("#sources .item")).to_have_count(3)


def test_add_a_folder_a_third_of_which_is_no_picture(page, towns, tmp_path: Path) -> None:
    expect = sync_api.expect
    folder = tmp_path / "<b>trip"
    folder.mkdir()
    for n in range(2):
        (folder / f"{n}.png").write_bytes(png(towns[n], 2))
        (folder / f"{n}.txt").write_text(f"<img src=x onerror=alert(1)> note {n}")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "letter.docx").write_bytes(b"PK")
    page.locator("#add-folder").set_input_files(folder)
    expect(page.locator("#said")).to_have_text("2 added, 2 left out")
    expect(page.locator("#count")).to_have_text("8 items")
    page.locator("#skipped summary").click()
    expect(page.locator("#skipped li").filter(has_text="broken.jpg")).to_contain_text("not an image")
    expect(page.locator("#items .item .text").first).to_contain_text("<img src=x")  # a text, not HTML
    page.locator("#note").fill("The cat is called Ada.")
    page.locator("#note").press("Enter")
    expect(page.locator("#count")).to_have_text("9 items")
    page.locator("#search").fill("Ada")
    expect(page.locator("#items .item .text").first).to_have_text("The cat is called Ada.")


def test_errors_are_shown(page) -> None:
    expect = sync_api.expect
    page.locator("#ask").click()
    expect(page.locator("[role=alert]")).to_contain_text("write a question")
    page.route(
        "**/v1/memories",
        lambda route: route.fulfill(status=507, json={"error": {"message": "no space is left"}}),
    )
    page.locator("#note").fill("x")
    page.locator("#note").press("Enter")
    expect(page.locator("[role=alert]")).to_contain_text("no space is left")


def test_keyboard_narrow_and_dark(page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#question")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.emulate_media(color_scheme="dark")
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_ten_thousand_items_and_a_key(browser, remembered) -> None:
    import numpy as np

    from comem.store.table import Row, Scope

    vectors = np.random.default_rng(0).standard_normal((10_000, 128)).astype(np.float32)
    rows = [
        Row(f"n{n}", f"note {n}", None, Scope("ann"), {}, "", (None, vector), None, {"note": 1})
        for n, vector in enumerate(vectors)
    ]
    remembered._table.insert(rows)
    server = Running(build_app(remembered, ServeSettings(Path("trip"), ui=True), Keys({"secret": "*"})))
    page = browser.new_page()
    try:
        page.goto(server.url)
        sync_api.expect(page.locator("#key-form")).to_be_visible()
        page.locator("#key").fill("secret")
        page.locator("#key").press("Enter")
        sync_api.expect(page.locator("#count")).to_have_text("10,006 items")
        page.locator("#items .item").nth(59).scroll_into_view_if_needed()
        sync_api.expect(page.locator("#items .item").nth(100)).to_be_attached()
    finally:
        page.close()
        server.close()
