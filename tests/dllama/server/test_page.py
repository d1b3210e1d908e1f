"""The chat page in a headless browser; skipped without Chromium and its driver."""

from __future__ import annotations

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from serving import serving, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1000,800",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs the Debian packages chromium and chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()
    driver.service.stop()


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture
def page(browser, server):
    """The page of the server, with an empty session."""
    server.gate.open()
    browser.get(server.url)
    browser.execute_script("sessionStorage.clear()")
    browser.get(server.url)
    wait_until(lambda: find(browser, "#model").text == "demo")
    browser.get_log("browser")
    yield browser
    assert browser.get_log("browser") == []


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def texts(browser, selector):
    return [found.text for found in browser.find_elements(By.CSS_SELECTOR, selector)]


def say(browser, text):
    find(browser, "#prompt").send_keys(text, Keys.ENTER)


def answered(browser, count):
    """Wait until this many answers are complete."""
    wait_until(lambda: len(texts(browser, ".assistant .foot button")) == count)


def limit(browser, tokens):
    """Set the maximum length of an answer in the settings."""
    find(browser, "#tune").click()
    find(browser, "#limit").send_keys(str(tokens))
    find(browser, "#tune").click()


def test_a_conversation(page, server):
    limit(page, 12)
    say(page, "Who are you?")
    answered(page, 1)
    say(page, "<b>And</b> you? `x` **y**\n")
    answered(page, 2)
    assert texts(page, ".user .text")[0] == "Who are you?"
    first, second = texts(page, ".assistant .text")
    assert first
    assert second
    assert "12 tokens" in find(page, ".assistant .foot").text
    assert find(page, ".user:nth-of-type(3) .text").text == "<b>And</b> you? x y"
    assert texts(page, "#log b") == []
    assert (texts(page, "#log code"), texts(page, "#log strong")) == (["x"], ["y"])
    page.refresh()  # which forgets nothing
    answered(page, 2)
    assert texts(page, ".assistant .text") == [first, second]
    find(page, "#new").click()
    assert texts(page, "#log li") == []


def test_an_answer_appears_as_it_is_generated_and_can_be_stopped(page, server):
    server.gate.shut(after=6)
    say(page, "Who are you?")
    wait_until(lambda: len(texts(page, ".streaming .text")) == 1)
    wait_until(lambda: texts(page, ".streaming .text")[0] != "")
    assert not find(page, "#send").is_displayed()
    find(page, "#stop").click()
    wait_until(lambda: server.count("dllama_requests_running") == 0)
    answered(page, 1)
    assert texts(page, ".assistant .foot span") == ["stopped"]
    assert texts(page, ".assistant .text")[0]
    assert find(page, "#send").is_displayed()


def test_a_server_that_wants_a_key(browser):
    with serving(key=b"open-sesame") as server:
        browser.get(server.url)
        wait_until(lambda: find(browser, "#settings").is_displayed())
        say(browser, "Who are you?")
        wait_until(lambda: texts(browser, "[role=alert]") == ["the API key is missing or wrong"])
        find(browser, "#key").send_keys("open-sesame", Keys.TAB)
        wait_until(lambda: find(browser, "#model").text == "demo")
        find(browser, ".assistant .foot button").click()
        wait_until(lambda: "Copy" in texts(browser, ".assistant .foot button"))
    browser.get_log("browser")  # holds the 401s


def test_everything_has_a_name_and_colours_follow_the_button(page):
    page.execute_script("document.getElementById('settings').hidden = false")
    for found in page.find_elements(By.CSS_SELECTOR, "button, input, textarea, #state, #log"):
        assert not found.is_displayed() or found.accessible_name, found.get_attribute("id")
    assert find(page, "#state").accessible_name == "server status: ok"
    colours = set()
    for _ in range(2):
        find(page, "#theme").click()
        colours.add(find(page, "body").value_of_css_property("background-color"))
    assert len(colours) == 2
