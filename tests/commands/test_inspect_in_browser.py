"""The page of `inspect --html` in a real browser: table and waterfall, pointer and keyboard, light and dark."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from langchain_ws_responses._cli import main
from tools.show_trace import FLAGS, record

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = [
    name
    for name, found in (
        ("chromium", CHROMIUM),
        ("chromedriver (Debian's chromium-driver)", DRIVER),
        ("selenium", find_spec("selenium")),
    )
    if not found
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1180,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The page of a recorded run, and what its answers say of themselves."""
    folder = tmp_path_factory.mktemp("run")
    told = record(folder / "trace.jsonl")
    assert main(["inspect", str(folder / "trace.jsonl"), "--html", str(folder / "page.html")]) == 0
    return folder / "page.html", told


@pytest.fixture
def page(browser: Any, run: Any) -> Any:
    browser.get(run[0].as_uri())
    yield browser
    assert browser.get_log("browser") == [], "no error, and nothing that the page's policy had to stop"


def texts(page: Any, css: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent.trim())"
    return list(page.execute_script(script, css))


def boxes(page: Any, css: str) -> list[dict[str, float]]:
    script = (
        "return [...document.querySelectorAll(arguments[0])].map(one => { const b = one.getBoundingClientRect();"
        " return {left: b.left, right: b.right, top: b.top, bottom: b.bottom} })"
    )
    return list(page.execute_script(script, css))


def test_the_table_says_what_the_answers_say(page: Any, run: Any) -> None:
    rows = [
        [cell.strip() for cell in texts(page, f"#r{number} td")]
        for number in range(1, 1 + len(texts(page, "tbody tr")))
    ]
    for told in run[1].values():
        where = [row for row in rows if row[3] == told["reason"] and row[4] == (told["connection"] or "-")]
        assert any(row[6] == str(told["items"]) for row in where), told
    sorts = [row[2] for row in rows]
    for words in ("D delta", "F full send", "W warm-up", "R resend", "H over HTTP"):
        letter, name = words.split(" ", 1)
        assert f"{letter} {name}" in sorts
    assert any(row[3] == "chain (fork)" for row in rows)
    outcomes = {row[11] for row in rows}
    assert "failed: server_error (400); then sent again in full: previous_response_not_found" in outcomes


def test_the_outcome_of_every_request_can_be_seen_without_scrolling(page: Any) -> None:
    (around,) = boxes(page, "[aria-label^=Requests]")
    outcomes = boxes(page, "tbody td:last-child")
    assert len(outcomes) >= 10
    assert all(box["right"] <= around["right"] for box in outcomes)


def test_the_waterfall_has_a_bar_for_each_row_at_its_place(page: Any) -> None:
    rows, bars = texts(page, "tbody tr"), boxes(page, "a.bar .fill")
    assert len(rows) == len(bars) >= 10
    script = "return [...document.querySelectorAll('a.bar')].map(one => +one.dataset.number)"
    order = page.execute_script(script)
    assert sorted(order) == list(range(1, len(rows) + 1))
    starts = [float(cell.strip("+s ")) for cell in texts(page, "tbody td:nth-child(2)")]
    by_number = sorted(zip(order, bars, strict=True), key=lambda pair: pair[0])
    placed = [(start, box["left"]) for start, (_, box) in zip(starts, by_number, strict=True)]
    assert placed == sorted(placed), "what came later stands further right"
    labels = texts(page, "svg.waterfall .label")
    assert len(labels) == len(set(labels))
    assert {"HTTP", "never sent", "failed dials"} <= set(labels)
    assert texts(page, "svg.waterfall .name") == ["connection c1", "connection c2"]
    assert len(texts(page, "svg.waterfall .arrow")) == 3
    assert "fork" in texts(page, "svg.waterfall .fork")


def test_times_do_not_run_into_the_pauses_between_them(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "t"
    turn = {
        "manager": "m",
        "connection": "c1",
        "endpoint": "ws://h/v1",
        "attempt": 1,
        "kind": "websocket",
        "lane": "a",
    }
    sent = {"mode": "delta", "reason": "chain", "items": 1, "bytes": 9, "reused": True, "waited": 0.0, "model": "m",
            "node": ""}  # fmt: skip
    ended = {"events": 5, "bytes": 9, "seconds": 1.0, "first_event": 0.1, "longest_gap": 0.1, "failure": None,
             "status": None, "phase": "terminal"}  # fmt: skip
    moments = [
        ("turn_sent", "t1", 10.0),
        ("turn_ended", "t1", 10.6),
        ("turn_sent", "t2", 11.0),
        ("turn_ended", "t2", 11.3),
    ]
    lines = [
        {
            "v": 1,
            "pid": 7,
            "event": event,
            "turn": name,
            "at": at,
            **turn,
            **(sent if event == "turn_sent" else ended),
        }
        for event, name, at in moments
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    main(["inspect", str(path), "--html", str(tmp_path / "page.html")])
    browser.get((tmp_path / "page.html").as_uri())
    assert texts(browser, "svg.waterfall .cut text") == ["400 ms"]
    assert len(texts(browser, "svg.waterfall .tick")) >= 3
    words = sorted(
        boxes(browser, "svg.waterfall .tick, svg.waterfall .cut text"), key=lambda box: box["left"]
    )
    assert all(one["right"] < other["left"] for one, other in pairwise(words))


def test_it_can_be_read_without_colour(page: Any) -> None:
    script = (
        "return [...document.querySelectorAll('pattern')].map(one => one.querySelector('.marks').innerHTML)"
    )
    marks = page.execute_script(script)
    assert len(marks) == len(set(marks)) == 6
    assert set(texts(page, ".legend .letter")) == {"D", "F", "W", "R", "H"}


def test_pointing_at_a_bar_shows_bytes_and_reason(page: Any, run: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    tip = page.find_element("id", "tip")
    assert not tip.is_displayed()
    bar = page.find_element("css selector", "a.bar.s-full")
    ActionChains(page).move_to_element(bar.find_element("css selector", ".fill")).perform()
    assert tip.is_displayed()
    assert "because: system_changed" in tip.text
    assert f"{run[1]['edited']['items']} items, 7.3 kB sent" in tip.text
    assert "marked" in page.find_element("id", f"r{bar.get_attribute('data-number')}").get_attribute("class")
    ActionChains(page).move_to_element(page.find_element("tag name", "h1")).perform()
    assert not tip.is_displayed()


def test_the_keyboard_reaches_every_bar(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    seen = []
    for _ in range(3 + len(boxes(page, "a.bar"))):
        ActionChains(page).send_keys(Keys.TAB).perform()
        focused = page.switch_to.active_element
        if focused.get_attribute("data-number"):
            assert page.find_element("id", "tip").is_displayed()
            label = focused.get_attribute("aria-label")
            assert page.find_element("id", "tip").text.splitlines()[0] in label
            seen.append(focused.get_attribute("data-number"))
    assert len(seen) == len(boxes(page, "a.bar"))
    bar = page.find_element("css selector", "a.bar.s-resend")
    page.execute_script("arguments[0].focus()", bar)
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert not page.find_element("id", "tip").is_displayed()
    ActionChains(page).send_keys(Keys.ENTER).perform()
    assert page.current_url.endswith(f"#r{bar.get_attribute('data-number')}")


def test_without_scripts_bars_still_have_titles(run: Any) -> None:
    text = run[0].read_text(encoding="utf-8")
    assert text.count("<title>") - text.count('<g class="connection"><title>') - text.count(
        '<g class="dialed"><title>'
    ) == 1 + text.count('class="bar ')


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_keep_contrast(page: Any, scheme: str) -> None:
    given = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", given)
    script = """
        const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
        return Object.fromEntries(["bg","panel","fg","soft","on","delta","full","warmup","resend","http"].map(
            name => [name, css("--" + name)]));
    """
    colours = {name: _luminance(value) for name, value in page.execute_script(script).items()}
    assert (colours["bg"] > 0.5) is (scheme == "light")
    for text in ("fg", "soft"):
        for ground in ("bg", "panel"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for sort in ("delta", "full", "warmup", "resend", "http"):
        assert _contrast(colours[sort], colours["on"]) >= 4.5, sort
        assert _contrast(colours[sort], colours["panel"]) >= 3, sort


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * one for one in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_a_hostile_trace_runs_nothing(browser: Any, tmp_path: Path) -> None:
    bad = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
    line = {
        "v": 1, "pid": 1, "event": "turn_sent", "at": 1.0, "manager": bad, "connection": bad, "endpoint": bad,
        "turn": bad, "attempt": 1, "kind": bad, "lane": bad, "mode": bad, "reason": bad, "items": 1, "bytes": 1,
        "reused": True, "waited": 0.0, "model": bad, "node": bad,
    }  # fmt: skip
    (tmp_path / "t").write_text(json.dumps(line))
    assert main(["inspect", str(tmp_path / "t"), "--html", str(tmp_path / "page.html")]) == 0
    browser.get((tmp_path / "page.html").as_uri())
    assert browser.title == "Trace t"
    assert browser.get_log("browser") == []
    assert bad in texts(browser, "tbody td:nth-child(4)")
