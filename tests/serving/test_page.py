"""The page in a real Chromium, against a real server."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs Chromium")]


@pytest.fixture(scope="module")
def address(run, catalogue, tmp_path_factory):
    """Of a server in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "rtd_plugin", "serve", "--images", catalogue, "--weights", run]
    environment = {**os.environ, "RTD_PLUGIN_CACHE": str(tmp_path_factory.mktemp("cache"))}
    command += ["--port", "0", "--device", "cpu", "--megabytes", "1"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        yield re.search(r"http://localhost:\d+", server.stdout.readline())[0]
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page in a window of a given width; fails if the page logs an error or asks elsewhere."""
    problems, contexts = [], []

    def open_page(width=1280, path="/", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda sent: None if sent.url.startswith((address, "blob:", "data:")) else problems.append(sent.url),
        )
        page.goto(address + path)
        page.wait_for_function("() => document.querySelectorAll('#starts li').length > 0")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def wait_for_results(page):
    page.wait_for_function("() => document.querySelectorAll('#results .card').length && results.ariaBusy === 'false'")


def read_names(page, column):
    return page.locator(".column").nth(column).locator(".name").all_text_contents()


def test_a_picture_and_words_give_two_columns(open_page, own_picture):
    page = open_page()
    page.set_input_files("#file", own_picture)
    page.wait_for_selector("#drop.filled img")
    page.fill("#text", "is red")
    page.keyboard.press("Enter")
    wait_for_results(page)
    assert page.locator("#results h2").all_text_contents() == ["Before tuningpre-trained", "After tuningmine"]
    assert len(read_names(page, 0)) == len(read_names(page, 1)) == 8
    assert re.match(r"1 · -?\d\.\d{3}", page.locator(".score").first.text_content())
    assert page.locator("#status").text_content() == "The 8 best images for “is red”. Choose one to go on from it."
    assert page.title() == "“is red” – rtd-plugin"
    link = page.locator(".card .name").first
    assert link.get_attribute("href").startswith("/images/")
    page.wait_for_function("() => [...document.images].every((image) => image.complete && image.naturalWidth)")


def test_a_result_leads_on_and_the_address_leads_back(open_page, own_picture):
    page = open_page()
    page.set_input_files("#file", own_picture)
    page.wait_for_selector("#drop.filled img")
    page.fill("#text", "is red")
    page.click("text=Find")
    wait_for_results(page)
    first, chosen = page.url, page.locator("#results .card").nth(1)
    image = chosen.get_attribute("data-image")
    chosen.locator("button").click()
    page.wait_for_function("() => document.activeElement.id === 'text' && text.value === ''")
    assert page.locator("#trail a").all_text_contents() == ["“is red”"]
    page.keyboard.type("is larger")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.title.startsWith('“is larger”')")
    wait_for_results(page)
    second, names = page.url, read_names(page, 1)
    assert image not in names
    page.go_back()  # the result was chosen
    page.go_back()
    page.wait_for_function("() => text.value === 'is red'")
    assert page.url == first
    page.go_forward()
    page.go_forward()
    page.wait_for_function("() => text.value === 'is larger'")
    wait_for_results(page)
    assert (page.url, read_names(page, 1)) == (second, names)
    page.reload()  # the user's picture is still shown
    wait_for_results(page)
    assert read_names(page, 1) == names
    page.wait_for_selector("#trail img")
    page.click("#trail a")
    page.wait_for_function("() => text.value === 'is red'")
    wait_for_results(page)


def test_an_address_works_in_another_browser(open_page):
    page = open_page(path="/?image=red.png&text=is+blue")
    wait_for_results(page)
    assert "red.png" not in read_names(page, 0)
    assert page.input_value("#text") == "is blue"
    page = open_page(path="/?upload=123&text=is+blue")
    page.wait_for_selector("#problem:visible")
    assert "choose it again" in page.locator("#problem").text_content()


def test_the_keyboard_alone(open_page, own_picture):
    """Tab, Enter and Space reach a start, the results, and the next step, each with a visible focus."""
    page = open_page()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("Boolean(document.activeElement.closest('#starts'))"):
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    page.wait_for_selector("#drop.filled img")
    page.wait_for_function("() => document.activeElement.id === 'text'")
    page.keyboard.type("is green")
    page.keyboard.press("Enter")
    wait_for_results(page)
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("Boolean(document.activeElement.closest('#results'))"):
            break
    assert "Go on from it" in page.evaluate("document.activeElement.ariaLabel")
    page.keyboard.press("Space")
    page.wait_for_function("() => document.activeElement.id === 'text' && text.value === ''")


def test_every_control_has_a_name(open_page):
    page = open_page(path="/?image=red.png&text=is+blue")
    wait_for_results(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, a, input, [role], section, ol, nav')].filter((each) =>
            each.offsetParent && !(each.ariaLabel || each.textContent.trim() || each.labels?.length
            || each.getAttribute('aria-labelledby') || each.id === 'status' || each.id === 'trail')
        ).map((each) => each.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("[...document.images].every((image) => image.hasAttribute('alt'))")


def test_what_is_wrong_is_said(open_page, tmp_path, own_picture):
    page = open_page()
    page.click("text=Find")
    assert page.locator("#problem").text_content() == "Choose an image first."
    large = tmp_path / "large.png"
    large.write_bytes(bytes(1_100_000))
    page.set_input_files("#file", large)
    page.wait_for_function("() => problem.textContent.startsWith('large.png has more than 1 MB')")
    page.set_input_files("#file", own_picture)
    page.wait_for_selector("#drop.filled img")
    page.click("text=Find")
    assert page.locator("#problem").text_content() == "Say what should be different."


def test_a_picture_may_be_dropped(open_page, own_picture):
    page = open_page()
    page.fill("#text", "is red")
    content = list(own_picture.read_bytes())
    page.evaluate(
        """(content) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(content)], "mine.jpg", { type: "image/jpeg" }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        content,
    )
    wait_for_results(page)
    assert "text=is+red" in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits_the_window(open_page, width, scheme):
    page = open_page(width, "/?image=red.png&text=is+blue&image=blue.png", color_scheme=scheme)
    wait_for_results(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{width}-{scheme}.png", full_page=True)
