"""The chat page in a headless browser; skipped without Chromium and its driver."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from browsing import (
    CHROMIUM,
    DRIVER,
    FORGET,
    answered,
    asked,
    chromium,
    click,
    find,
    imported,
    keep,
    limit,
    load,
    said,
    say,
    texts,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from serving import http, serving, wait_until

from dllama.server.apis.chat import parse_chat
from dllama.server.problems import ApiError
from dllama.server.queue.status import State, Status

WIDTHS = (1280, 375)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs the Debian packages chromium and chromium-driver"
    ),
]

RICH = r"""
## Sorting

| name | time |
|:--|--:|
| merge | $O(n \log n)$ |

1. one
   - nested
- [x] done

> costs of $5 and $6, and $\frac{x$

```python
def f(x):
    return "<b>"
```

\[ \sqrt{\frac{a}{b}} + \color{red}{c} + \overbrace{x} \]

[good](https://example.org/) [bad](javascript:alert(1)) ![cat](http://example.org/cat.png)
<script>alert(1)</script> <img src=x onerror=alert(1)>

[later]

[later]: https://example.org/later
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@pytest.fixture(scope="module")
def server():
    with serving(max_seq_len=256) as running:
        yield running


@pytest.fixture
def page(browser, server):
    """The page of the server, in a browser that knows nothing of it."""
    server.gate.open()
    browser.get(f"{server.url}/health")
    browser.execute_async_script(FORGET)
    load(browser, server)
    browser.get_log("browser")
    yield browser
    assert browser.get_log("browser") == []


def test_a_conversation(page, server):
    limit(page, 12)
    say(page, "Who are you?")
    answered(page, 1)
    say(page, "<b>And</b> you? `x`")
    answered(page, 2)
    assert texts(page, ".user > .text") == ["Who are you?", "<b>And</b> you? `x`"]
    answers = texts(page, ".assistant > .text")
    assert all(answers)
    for part in ("12 tokens", "tokens/s", "first after", "cut at the maximum length"):
        assert part in texts(page, ".assistant .note")[0]
    find(page, "#prompt").send_keys("A draft")
    page.refresh()  # which forgets nothing
    wait_until(lambda: find(page, "#prompt").get_property("value") == "A draft")
    answered(page, 2)
    assert texts(page, ".assistant > .text") == answers
    click(page, "New chat", "#side")
    assert texts(page, "#log li") == []
    assert texts(page, "#chats .name") == ["Who are you?"]
    click(page, "Who are you?", "#chats")
    answered(page, 2)


@pytest.mark.parametrize("width", WIDTHS)
def test_markdown_becomes_elements_and_never_html(page, server, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    messages = [asked("Show it"), said(RICH, reasoning="**So** I think.", note="9 tokens")]
    keep(page, server, "rich", messages)
    inside = ".assistant > .text "
    assert texts(page, f"{inside}h4") == ["Sorting"]
    assert find(page, f"{inside}td:last-child").value_of_css_property("text-align") == "right"
    assert texts(page, f"{inside}ol li li") == ["nested"]
    assert find(page, f"{inside}input").is_selected()
    assert texts(page, f"{inside}blockquote") == ["costs of $5 and $6, and \\frac{x"]
    assert texts(page, f"{inside}.hljs-string") == ['"<b>"']
    assert len(texts(page, f"{inside}.katex-html")) == 2
    assert texts(page, f"{inside}.katex-error") == []
    links = page.find_elements(By.CSS_SELECTOR, f"{inside}a")
    assert [link.get_attribute("href").rpartition("/")[2] for link in links] == [
        "", "cat.png", "later",
    ]  # fmt: skip
    assert {link.get_attribute("rel") for link in links} == {"noopener noreferrer"}
    assert texts(page, "#log script, #log img, #log b") == []
    assert "<script>alert(1)</script>" in texts(page, inside)[0]
    assert not find(page, ".thinking .text").is_displayed()
    find(page, ".thinking summary").click()
    assert texts(page, ".thinking strong") == ["So"]
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert find(page, "#send").rect["x"] + find(page, "#send").rect["width"] < width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_growing_text_looks_as_the_whole_does(page):
    script = """
    const [grown, whole] = [document.createElement("div"), document.createElement("div")];
    const view = new it.Markdown(grown);
    for (let end = 0; end <= given[0].length; end += 3) view.show(given[0].slice(0, end));
    view.show(given[0]);
    new it.Markdown(whole).show(given[0]);
    return [grown.innerHTML === whole.innerHTML, whole.children.length];
    """
    same, blocks = imported(page, "markdown.js", script, RICH.partition("[later]")[0])
    assert same
    assert blocks > 6


def test_what_a_model_thinks_is_told_apart(page):
    script = "return given[0].map((text) => Object.values(it.splitThinking(text)))"
    cases = {
        "<think>\na\n</think>\n\nb": ["a", "b", False],
        "<think>a": ["a", "", True],
        "a</think>b": ["a", "b", False],
        "<thi": ["", "", False],
        "a < b": ["", "a < b", False],
    }
    assert imported(page, "thinking.js", script, [*cases]) == [*cases.values()]


def test_what_a_model_thinks_is_folded(browser, tmp_path):
    template = tmp_path / "thinks.jinja"
    template.write_text("{{ messages[-1].content }}\n<think>\n{# </think> #}")
    with serving(template=template) as server:
        load(browser, server)
        limit(browser, 6)
        say(browser, "Who are you?")
        answered(browser, 1)
        assert "6 tokens" in texts(browser, ".assistant .note")[0]
        assert texts(browser, ".assistant > .text") == [""]
        assert texts(browser, ".assistant .foot button") == ["Regenerate"]
        summary = find(browser, ".thinking summary")
        assert summary.text.startswith("Thought for")
        assert not find(browser, ".thinking .text").is_displayed()
        summary.click()
        assert find(browser, ".thinking .text").text


def test_an_answer_can_be_stopped_regenerated_and_brought_back(page, server):
    server.gate.shut(after=6)
    say(page, "Who are you?")
    wait_until(lambda: any(texts(page, ".growing > .text")))
    assert len(texts(page, ".growing .end")) == 1  # which has the caret
    assert not find(page, "#send").is_displayed()
    find(page, "#stop").click()
    wait_until(lambda: server.count("dllama_requests_running") == 0)
    answered(page, 1)
    assert "stopped" in texts(page, ".assistant .note")[0]
    first = texts(page, ".assistant > .text")
    server.gate.open()
    limit(page, 2)
    click(page, "Regenerate")
    wait_until(lambda: "2 tokens" in "".join(texts(page, ".assistant .note")))
    click(page, "Undo", "#toast")
    wait_until(lambda: texts(page, ".assistant > .text") == first)


def test_a_page_that_is_closed_in_mid_answer_keeps_what_came(page, server):
    server.gate.shut(after=3)
    say(page, "Who are you?")
    wait_until(lambda: any(texts(page, ".growing > .text")))
    before = texts(page, ".growing > .text")
    page.refresh()
    answered(page, 1)
    after = texts(page, ".assistant > .text")
    assert after[0].startswith(before[0])
    assert "cut when the page was closed" in texts(page, ".assistant .note")[0]
    server.gate.open()
    click(page, "Continue")
    wait_until(lambda: "first after" in "".join(texts(page, ".assistant .note")))
    (longer,) = texts(page, ".assistant > .text")
    assert longer.startswith(after[0])
    assert len(longer) > len(after[0])


def test_a_message_can_be_edited(page, server):
    messages = [asked("One"), said("1"), asked("Two"), said("2")]
    keep(page, server, "numbers", messages)
    limit(page, 2)
    page.execute_script("document.querySelector('.user .foot button').click()")
    find(page, ".editor textarea").send_keys("!", Keys.ENTER)
    answered(page, 1)
    assert texts(page, ".user > .text") == ["One!"]
    assert "2 tokens" in texts(page, ".assistant .note")[0]
    click(page, "Undo", "#toast")
    wait_until(lambda: texts(page, ".user > .text") == ["One", "Two"])


def test_the_list_of_conversations(page, server, tmp_path):
    keep(page, server, "apples", [asked("red fruit"), said("**yes**")])
    keep(page, server, "pears", [asked("green fruit")])
    find(page, "#search").send_keys("RED")
    wait_until(lambda: texts(page, "#chats .name") == ["apples"])
    click(page, "Rename apples", "#chats")
    find(page, "#chats input").send_keys("cherries", Keys.ENTER)
    wait_until(lambda: texts(page, "#chats .name") == ["cherries"])
    where = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.execute_cdp_cmd("Browser.setDownloadBehavior", where)
    click(page, "Export cherries", "#chats")
    file = tmp_path / "cherries.md"
    wait_until(file.exists)
    assert file.read_text() == "# cherries\n\n## You\n\nred fruit\n\n## demo\n\n**yes**\n"
    click(page, "Delete cherries", "#chats")
    wait_until(lambda: texts(page, "#no-chats") == ["Nothing found"])
    click(page, "Undo", "#toast")
    wait_until(lambda: texts(page, "#chats .name") == ["cherries"])
    page.refresh()
    wait_until(lambda: sorted(texts(page, "#chats .name")) == ["cherries", "pears"])


def test_who_waits_is_told_how_many_come_first(page, server):
    server.gate.shut()
    body = {"prompt": "MACBETH:\n", "max_tokens": 1}
    threads = [
        threading.Thread(target=http, args=(f"{server.url}/v1/completions", body)) for _ in range(3)
    ]
    for count, thread in enumerate(threads):
        thread.start()
        wait_until(lambda count=count: server.dispatcher.waiting == count)
    wait_until(lambda: "2 waiting" in texts(page, "#speed")[0])
    say(page, "Who are you?")
    wait_until(lambda: texts(page, ".growing .status") == ["waiting (2 before you)"])
    server.gate.open()
    for thread in threads:
        thread.join()
    answered(page, 1)


def test_the_page_follows_the_state_of_the_server(page, server, monkeypatch):
    status = Status(State.LOADING, "loading", 0.437)
    with monkeypatch.context() as patch:
        patch.setattr(server.dispatcher, "status", status)
        wait_until(lambda: texts(page, "#banner") == ["The model is being loaded… 43 %"])
        assert find(page, "#state").accessible_name == "server status: loading"
    wait_until(lambda: not find(page, "#banner").is_displayed())
    assert find(page, "#state").accessible_name == "server status: ok"


def test_the_oldest_turns_make_room(page, server):
    long = "To be or not to be, that is the question. " * 4
    turns = [message for _ in range(5) for message in (asked(long), said(long))]
    keep(page, server, "long", turns)
    limit(page, 4)
    say(page, "And now?")
    answered(page, 6)
    assert "4 tokens" in texts(page, ".assistant:last-child .note")[0]
    (note,) = texts(page, ".divider")
    assert "The context is full" in note
    assert len(texts(page, ".left-out")) == int(note.split("the ")[1].split()[0])


def test_numbers_are_checked_as_typed(page):
    find(page, "#tune").click()
    box = find(page, "#temperature")
    box.send_keys("2.5")
    assert box.get_attribute("aria-invalid") == "true"
    assert texts(page, "#temperature-wrong") == ["expected a number from 0 to 2"]
    say(page, "Who are you?")
    assert texts(page, "#log li") == []
    assert page.switch_to.active_element == box
    box.send_keys(Keys.BACKSPACE, Keys.BACKSPACE)
    assert box.get_attribute("aria-invalid") == "false"


def test_limits_of_the_page_are_those_of_the_server(page):
    for field in imported(page, "settings.js", "return it.NUMBERS"):
        step = 1 if field.get("whole") else 0.01
        least = field["least"] + (step if field.get("above") else 0)
        wider = ("seed", "top_k")  # the server takes negative ones, and larger seeds
        beyond = [] if field["api"] in wider else [field["most"] + step, least - step]
        for value in (least, field["most"]):
            parse_chat({"messages": [asked("?")], field["api"]: value})
        for value in beyond:
            with pytest.raises(ApiError, match=field["api"]):
                parse_chat({"messages": [asked("?")], field["api"]: value})


def test_a_server_that_wants_a_key_loses_a_worker_and_cannot_be_reached(browser):
    with serving(key=b"open-sesame", nodes=2) as server:
        browser.get(server.url)
        wait_until(lambda: find(browser, "#settings").is_displayed())
        assert "API key" in texts(browser, "#banner")[0]
        find(browser, "#key").send_keys("open-sesame", Keys.TAB)
        wait_until(lambda: find(browser, "#model").text == "demo")
        assert [name.split()[0] for name in texts(browser, "#nodes li")] == ["root", "worker"]
        (worker,) = server.dispatcher._model._runner.root.worker_pids
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: len(texts(browser, "#nodes .lost, #banner:not([hidden])")) == 2)
        wait_until(lambda: find(browser, "#state").accessible_name == "server status: ok")
        assert texts(browser, "#nodes .lost") == []
    wait_until(lambda: "cannot be reached" in texts(browser, "#banner")[0])
    say(browser, "Are you there?")
    wait_until(lambda: texts(browser, ".assistant .error") == ["the server cannot be reached"])
    assert texts(browser, ".assistant .foot button") == ["Try again"]
    browser.get_log("browser")  # holds what could not be fetched


def test_everything_has_a_name_and_colours_follow_the_button(page, server):
    keep(page, server, "short", [asked("?"), said("`!`")])
    page.execute_script("document.getElementById('settings').hidden = false")
    for found in page.find_elements(By.CSS_SELECTOR, "button, input, textarea, #state, #talk"):
        assert not found.is_displayed() or found.accessible_name, found.get_attribute("id")
    assert find(page, "#state").accessible_name == "server status: ok"
    colours = set()
    for _ in range(2):
        find(page, "#theme").click()
        colours.add(find(page, "body").value_of_css_property("background-color"))
    assert len(colours) == 2
