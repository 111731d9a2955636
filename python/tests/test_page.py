"""The page, in a real browser, on a real cache.

`SCREENSHOTS_OF_THE_PAGE=DIR` keeps what it looked like: `docs/images` is made so.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from ports import free_port
from test_watch import CHUNK, config, get, keys_of, work

import forebay

PATIENCE_MS = 60_000
SCREENSHOTS = os.environ.get("SCREENSHOTS_OF_THE_PAGE")
WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Root may not have a sandbox; what is shown is ours.
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield started
        started.close()


class Shown:
    """The page of an address, and what the browser complained of."""

    def __init__(self, browser: Browser, address: str, *, size: dict[str, int] | None = None, dark: bool = False):
        self.complaints: list[str] = []
        self.address = address
        scheme: Any = "dark" if dark else "light"
        self.page: Page = browser.new_page(viewport=size or WIDE, color_scheme=scheme)  # type: ignore[arg-type]
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"http://{address}/")
        self.wait(lambda: self.figure("health") not in (None, "", "unknown"))

    def figure(self, name: str) -> str | None:
        return self.page.get_attribute(f'[data-figure="{name}"]', "data-value")

    def wait(self, until: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_MS / 1000
        while not until():
            assert time.monotonic() < deadline_s, (self.complaints, self.page.inner_text("main")[:2000])
            self.page.wait_for_timeout(50)

    def keep(self, name: str) -> None:
        if SCREENSHOTS:
            self.page.wait_for_timeout(6000)  # lines want some seconds to be seen
            self.page.screenshot(path=Path(SCREENSHOTS) / f"page-{name}.png", full_page=True)

    def end(self, name: str) -> None:
        """Nothing was wrong with it, and it fits its window."""
        wider = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        self.page.close()
        assert self.complaints == []
        assert wider <= 0, f"{name} is wider than its window"


def at_work(cache: forebay.Cache, until: threading.Event) -> threading.Thread:
    """Goes on storing and loading."""

    def go_on() -> None:
        prompt = 0
        while not until.is_set():
            work(cache, range(prompt % 80, prompt % 80 + 4))
            prompt += 3

    thread = threading.Thread(target=go_on)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("name", "size", "dark"),
    [("light", WIDE, False), ("dark", WIDE, True), ("narrow", NARROW, False)],
)
def test_what_it_shows_under_load_is_what_metrics_say(
    browser: Browser, tmp_path: Path, name: str, size: dict[str, int], dark: bool
) -> None:
    (tmp_path / "shared").mkdir()
    remote = {"remote_url": f"file://{tmp_path / 'shared'}", "max_remote_size": 0.1}
    namespace = forebay.Namespace(model="watched")
    with forebay.Cache(config(tmp_path, **remote), chunk_bytes=CHUNK, namespace=namespace) as cache:
        over = threading.Event()
        working = at_work(cache, over)
        try:
            shown = Shown(browser, str(cache.http_address), size=size, dark=dark)
            first = int(shown.figure("tier-disk-loaded_bytes") or 0)
            shown.wait(lambda: int(shown.figure("tier-disk-loaded_bytes") or 0) > first > 0)
            shown.keep(name)
        finally:
            over.set()
            working.join()
        deadline_s = time.monotonic() + PATIENCE_MS / 1000
        while cache.stats()["remote_queued"] > 0 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        metrics = dict(
            line.rsplit(" ", 1) for line in get(shown.address, "/metrics")[1].splitlines() if not line.startswith("#")
        )
        same = {
            "lookups_hit": 'forebay_lookups_total{result="hit"}',
            "lookups_miss": 'forebay_lookups_total{result="miss"}',
            "tier-disk-chunks": 'forebay_chunks{tier="disk"}',
            "tier-disk-used_bytes": 'forebay_used_bytes{tier="disk"}',
            "tier-disk-loaded_bytes": 'forebay_loaded_bytes_total{tier="disk"}',
            "tier-disk-stored_bytes": 'forebay_stored_bytes_total{tier="disk"}',
            "tier-remote-stored_chunks": 'forebay_stored_chunks_total{tier="remote"}',
        }
        shown.wait(lambda: {each: shown.figure(each) for each in same} == {each: metrics[same[each]] for each in same})
        assert shown.figure("staging-0-in_use") == "0" and shown.figure("health") == "ready"
        assert "watched" in shown.page.inner_text("main"), "whose chunks they are is shown"
        shown.end(name)


def test_an_empty_cache_is_shown(browser: Browser, tmp_path: Path) -> None:
    with forebay.Cache(config(tmp_path), chunk_bytes=CHUNK) as cache:
        shown = Shown(browser, str(cache.http_address))
        assert shown.figure("tier-disk-chunks") == "0"
        shown.keep("empty")
        shown.end("empty")


def test_a_store_that_does_not_answer_is_shown_with_its_reason(browser: Browser, tmp_path: Path) -> None:
    nobody = {"remote_url": f"redis://127.0.0.1:{free_port()}", "remote_retries": 0, "remote_timeout_s": 0.2}
    with forebay.Cache(config(tmp_path, **nobody), chunk_bytes=CHUNK) as cache:
        deadline_s = time.monotonic() + PATIENCE_MS / 1000
        prompt = 1000
        while cache.stats()["remote_breaker"] != "open":
            assert time.monotonic() < deadline_s
            cache.lookup(keys_of(prompt, 2)).release()
            prompt += 1
            time.sleep(0.01)
        shown = Shown(browser, str(cache.http_address))
        shown.wait(lambda: shown.figure("health") == "degraded")
        reasons = json.loads(get(shown.address, "/readyz")[1])["reasons"]
        assert any(reason in shown.page.inner_text("body") for reason in reasons) and reasons
        shown.keep("degraded")
        shown.end("degraded")


def test_that_the_cache_is_gone_is_shown(browser: Browser, tmp_path: Path) -> None:
    cache = forebay.Cache(config(tmp_path), chunk_bytes=CHUNK)
    shown = Shown(browser, str(cache.http_address))
    cache.close()
    shown.wait(lambda: shown.figure("health") == "silent")
    assert "No answer" in shown.page.inner_text("body")
    shown.page.close()
