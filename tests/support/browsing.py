"""The chat page in a headless browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from serving import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1280,800",
)  # fmt: skip
FORGET = """
const done = arguments[0];
localStorage.clear();
sessionStorage.clear();
const asked = indexedDB.deleteDatabase("dllama");
asked.onsuccess = done;
"""
KEEP = """
const [chat, done] = arguments;
const asked = indexedDB.open("dllama", 1);
asked.onupgradeneeded = () => asked.result.createObjectStore("conversations", { keyPath: "id" });
asked.onsuccess = () => {
  const transaction = asked.result.transaction("conversations", "readwrite");
  transaction.objectStore("conversations").put(chat);
  transaction.oncomplete = () => { asked.result.close(); done(); };
};
"""


@contextmanager
def chromium(folder: Path) -> Iterator[webdriver.Chrome]:
    """A headless browser whose profile is in a folder."""
    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
        driver.service.stop()


def load(browser, server):
    browser.get(server.url)
    wait_until(lambda: find(browser, "#model").text == "demo")


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def texts(browser, selector):
    """The texts of elements, at one moment."""
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
    return browser.execute_script(script, selector)


def click(browser, text, within="#log"):
    """Click the last button with a text."""
    script = """
    const all = [...document.querySelectorAll(`${arguments[1]} button`)];
    all.filter((one) => [one.innerText, one.ariaLabel].includes(arguments[0])).at(-1).click();
    """
    browser.execute_script(script, text, within)


def say(browser, text):
    find(browser, "#prompt").send_keys(text, Keys.ENTER)


def answered(browser, count):
    """Wait until this many answers are complete."""
    wait_until(lambda: len(texts(browser, ".assistant .foot")) == count)
    wait_until(lambda: texts(browser, ".growing") == [])


def limit(browser, tokens):
    """Set the maximum length of an answer in the settings."""
    find(browser, "#tune").click()
    find(browser, "#limit").send_keys(str(tokens))
    find(browser, "#tune").click()


def keep(browser, server, title, messages):
    """Put a conversation into the browser's database, and show it."""
    chat = {"id": title, "title": title, "updated": 1, "from": 0, "messages": messages}
    browser.execute_async_script(KEEP, chat)
    browser.execute_script("sessionStorage.setItem('dllama.current', arguments[0])", title)
    load(browser, server)
    wait_until(lambda: len(texts(browser, "#log > li")) == len(messages))


def asked(text):
    return {"role": "user", "content": text}


def said(text, **more):
    return {"role": "assistant", "content": text, "reasoning": "", **more}


def imported(browser, module, script, *values):
    """Run a script with a module of the page as `it`, and return its result."""
    code = f"const given = [...arguments]; const done = given.pop(); import('/static/js/{module}')"
    code += f".then((it) => done((() => {{ {script} }})()), (error) => done(String(error)));"
    return browser.execute_async_script(code, *values)
