"""The chat page in Chromium."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from .conftest import GOLDEN, TINY, Server, serving

pytestmark = pytest.mark.browser
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
QUIET += ["--disable-component-update", "--disable-sync"]


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        page = browser.new_page(viewport={"width": 900, "height": 700})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        yield page
        browser.close()
        assert [p for p in problems if "Failed to load resource" not in p] == []


def ask(page: Page, text: str) -> None:
    page.wait_for_selector("select option", state="attached")  # the models have been listed
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")


@pytest.fixture
def smollm(real_models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("CONIFER_GGUF_HOME", str(real_models))
    with serving("--model", "smollm2-135m", "--ctx", "1024") as running:
        yield running


@pytest.mark.real_model
def test_an_answer_streams_and_a_follow_up_knows_what_was_read(page: Page, smollm: Server) -> None:
    page.goto(smollm.url)
    expect(page.get_by_role("heading", name="Ask something")).to_be_visible()
    ask(page, "What is the capital of France? Answer in one word.")
    expect(page.locator(".turn.assistant")).to_contain_text("Paris", timeout=60_000)
    expect(page.locator(".numbers")).to_be_visible(timeout=60_000)
    ask(page, "Thank you.")
    expect(page.locator(".numbers").nth(1)).to_contain_text("of them known", timeout=60_000)


@pytest.mark.real_model
def test_a_death_of_the_engine_is_told_and_the_next_question_works(page: Page, smollm: Server) -> None:
    page.goto(smollm.url)
    ask(page, "Write a long story about a river, with many characters.")
    expect(page.locator(".turn.assistant p").first).to_contain_text(
        "e", timeout=60_000
    )  # not "Loading the model"
    for child in psutil.Process(smollm.process.pid).children():
        os.kill(child.pid, signal.SIGKILL)
    expect(page.get_by_role("alert")).to_contain_text("killed by SIGKILL", timeout=60_000)
    ask(page, "Name one colour.")
    expect(page.locator(".numbers")).to_be_visible(timeout=60_000)


def test_escape_stops_an_answer(page: Page, home: Path) -> None:
    with serving(str(TINY), "--ctx", "1024") as running:
        page.goto(running.url)
        for _ in range(5):  # a random model may end an answer by itself
            ask(page, "Tell me everything.")
            page.keyboard.press("Escape")
            page.wait_for_selector("text=Send", timeout=60_000)
            if page.get_by_text("stopped", exact=True).count():
                return
        raise AssertionError("no answer could be stopped")


def test_what_a_model_writes_cannot_run_as_script(page: Page, server: Server) -> None:
    answer = 'data: {"choices":[{"delta":{"content":"<img src=x onerror=window.hacked=1><script>window.hacked=1</script>ok"}}]}\n\n'
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(body=answer + "data: [DONE]\n\n", content_type="text/event-stream"),
    )
    page.goto(server.url)
    ask(page, "Hi")
    expect(page.locator(".turn.assistant")).to_contain_text("ok")
    assert page.evaluate("window.hacked") is None


def test_the_page_says_when_the_server_is_gone_and_notices_its_return(page: Page, home: Path) -> None:
    with serving(str(TINY), "--ctx", "512") as first:
        page.goto(first.url)
        page.wait_for_selector("select option", state="attached")
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(page.get_by_role("status")).to_contain_text("does not answer")
    port = first.url.rstrip("/").rsplit(":", 1)[1]
    with serving(str(TINY), "--ctx", "512", "--port", port):
        page.evaluate("dispatchEvent(new Event('focus'))")
        expect(page.get_by_role("status")).to_have_count(0)


GRANITE = GOLDEN / "granite" / "model-f32.gguf"


@pytest.mark.slow
def test_a_gated_hybrid_is_told_flipped_and_then_streams(
    page: Page, registered: Path, cli: Callable[..., object]
) -> None:
    cli("plugins", "unregister", "ssd_scan")  # one kernel is enough to wait for
    with serving(str(GRANITE), "--ctx", "512") as running:
        page.goto(running.url)
        gate = page.get_by_label("Load-gated")
        expect(gate).to_contain_text("2 of 3 layers are Mamba-2")
        expect(gate).to_contain_text("conifer-gguf plugins register ssd_scan")
        ask(page, "Hello")
        expect(page.get_by_role("alert")).to_contain_text("no registered plugin supplies conifer.ssd_scan/1")
        gate.get_by_role("button").click()
        expect(gate).to_have_count(0, timeout=200_000)
        expect(page.locator(".about")).to_contain_text("ready")
        lengths = watch_the_answer(page)
        ask(page, "Tell me about rivers.")
        expect(page.locator(".numbers")).to_be_visible(timeout=60_000)
        assert len(set(lengths())) > 2, "the answer came in one piece"
        cli("plugins", "unregister", "ssd_scan")
        page.evaluate("dispatchEvent(new Event('focus'))")
        expect(gate).to_contain_text("conifer.ssd_scan/1")


def watch_the_answer(page: Page) -> Callable[[], list[int]]:
    """Notes how long the answer is whenever the page changes."""
    page.evaluate(
        """() => {
          window.lengths = [];
          new MutationObserver(() => {
            const said = [...document.querySelectorAll(".turn.assistant .said")].pop();
            if (said) window.lengths.push(said.textContent.length);
          }).observe(document.querySelector("main"), { childList: true, subtree: true, characterData: true });
        }"""
    )
    return lambda: list(page.evaluate("window.lengths"))
