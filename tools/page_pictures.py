"""Takes the documentation's pictures of the page: python tools/page_pictures.py docs/pictures."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import sync_playwright

import comem
from comem.serve.app import build_app
from comem.serve.settings import Keys, ServeSettings
from comem.toy.draw import png
from comem.toy.world import World

QUESTION = "What are the walls of this town made of?"
PORT = 8123


def main() -> None:
    """Add towns, ask, and take the pictures."""
    target = Path(sys.argv[1])  # on the embedded world, with a headless Chromium
    towns = World().split("test")[:12]
    with tempfile.TemporaryDirectory() as place:
        memory = comem.Memory(Path(place) / "trip")
        memory.add([{"text": f"{t.name}: {t.passage()}", "image": png(t, 0)} for t in towns])
        asked = Path(place) / "photo.png"
        asked.write_bytes(png(towns[0], 1))
        app = build_app(memory, ServeSettings(Path(place), ui=True), Keys({}))
        server = uvicorn.Server(uvicorn.Config(app, port=PORT, log_level="error"))
        threading.Thread(target=server.run, daemon=True).start()
        while not server.started:
            time.sleep(0.05)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            for name, scheme, size in (
                ("page", "light", (1180, 760)),
                ("page-dark", "dark", (1180, 760)),
                ("page-narrow", "light", (390, 1200)),
            ):
                page = browser.new_page(
                    viewport={"width": size[0], "height": size[1]},
                    color_scheme=scheme,  # type: ignore[arg-type]
                )
                page.set_default_timeout(120_000)
                page.goto(f"http://127.0.0.1:{PORT}")
                page.locator("#ask-file").set_input_files(asked)
                page.locator("#question").fill(QUESTION)
                page.locator("#ask").click()
                page.locator("#sources .item").nth(2).wait_for()
                page.wait_for_timeout(1500)
                page.screenshot(path=target / f"{name}.png")
                page.close()
            browser.close()
        server.should_exit = True


if __name__ == "__main__":
    main()
