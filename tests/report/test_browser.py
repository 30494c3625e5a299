"""The page in a browser: what it shows, with mouse and keyboard; nothing of a trace becomes part of it."""

import json

import pytest

from tests.report.browser import PROGRAM, Browser
from tests.report.synthetic import NASTY

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
_LIST = "[...document.querySelectorAll('#problems .items button')]"


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        opened.size(1280, 900)
        yield opened


@pytest.fixture
def opened(browser, page):
    """The page, just opened; it must have thrown nothing, said nothing and asked for nothing when the test ends."""
    browser.size(1280, 900)
    browser.open(page)
    yield browser
    assert browser.complaints() == []


def chosen(browser):
    return browser.evaluate("document.querySelector('#problems .candidate h4 .meta').textContent")


def test_wrong_ones_come_first_and_texts_are_texts(opened, runs):
    listed = opened.evaluate(f"{_LIST}.map(b => b.querySelector('.marks').textContent)")
    wrong = [marks.count("✗") for marks in listed]
    assert wrong == sorted(wrong, reverse=True) and wrong[0] > 0
    assert opened.evaluate("document.title").endswith("report")
    question = opened.evaluate("document.querySelector('#problems .question pre').textContent")
    assert NASTY in question
    assert (
        opened.evaluate(
            "document.querySelectorAll('.mount script, .mount b[onclick], .mount i, .mount u').length"
        )
        == 0
    )


def test_every_candidate_is_a_mark(opened, runs):
    opened.click("#problems .items li:nth-child(3) button")
    key = opened.evaluate(f"{_LIST}[2].querySelector('.id').textContent")
    opened.wait(
        f"document.querySelector('#problems .head h3').lastChild.textContent.trim() === {json.dumps(key)}"
    )
    assert opened.evaluate(f"{_LIST}[2].getAttribute('aria-current')") == "true"
    tab = opened.evaluate(
        "document.querySelector('#problems .tabs [aria-pressed=true]').lastChild.textContent.trim()"
    )
    lines = (runs / tab / "tree.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    nodes = [row for row in map(json.loads, lines) if row["problem"] == key]
    assert opened.evaluate("document.querySelectorAll('#problems .tree .mark').length") == len(nodes)
    for kind, count in (
        ("dropped", sum(row["dropped"] is not None for row in nodes)),
        ("kept", sum(row["kept"] for row in nodes)),
    ):
        assert opened.evaluate(f"document.querySelectorAll('#problems .tree .mark.{kind}').length") == count
    places = opened.evaluate(
        "[...document.querySelectorAll('#problems .tree .mark')].map(m => m.getAttribute('transform'))"
    )
    assert len(set(places)) == len(places)  # none hides another
    node = next(row for row in nodes if row["dropped"] is None and not row["kept"])
    opened.click(f"#problems .mark[data-node='{node['node']}'] .target")
    assert chosen(opened) == f"step {node['step']}, candidate {node['node']}"
    shown = opened.evaluate("document.querySelector('#problems .candidate .text').textContent")
    assert shown == node["text"].rstrip()
    # The address leads back to it.
    anchor = opened.evaluate("location.hash")
    opened.call("Page.reload")
    opened.wait("document.documentElement?.dataset.ready === 'true'")
    assert opened.evaluate("location.hash") == anchor
    assert chosen(opened) == f"step {node['step']}, candidate {node['node']}"


def test_keyboard(opened):
    opened.evaluate("document.querySelector('#problems .board').focus()")
    last = chosen(opened)
    opened.press("Home")
    first = chosen(opened)
    assert first.startswith("step 1,") and first != last
    opened.press("ArrowRight")
    assert chosen(opened).startswith("step 2,")
    opened.press("ArrowLeft")
    assert chosen(opened) == first
    opened.press("ArrowDown")
    assert chosen(opened).startswith("step 1,") and chosen(opened) != first
    opened.press("End")
    assert chosen(opened) == last
    before = opened.evaluate("document.querySelector('#problems .head h3').textContent")
    opened.press("n")
    opened.wait(f"document.querySelector('#problems .head h3').textContent !== {json.dumps(before)}")
    opened.evaluate("document.querySelector('#problems .items button').focus()")
    opened.press("p")
    opened.wait(f"document.querySelector('#problems .head h3').textContent === {json.dumps(before)}")
    opened.press("/")
    assert opened.evaluate("document.activeElement.type") == "search"
    for key in "p11":
        opened.press(key)
    assert opened.evaluate(f"{_LIST}.map(b => b.querySelector('.id').textContent)") == ["p11 <i>&"]


def test_filters(opened):
    for value, marks in (("wrong", "✗"), ("right", "✓")):
        opened.evaluate(
            "(() => { const s = document.querySelector('#problems select'); "
            f"s.value = {json.dumps(value)}; s.dispatchEvent(new Event('change')); }})()"
        )
        listed = opened.evaluate(f"{_LIST}.map(b => b.querySelector('.marks').textContent)")
        assert listed and all(marks in text for text in listed)
        assert f"{len(listed)} of 12" in opened.evaluate(
            "document.querySelector('#problems .count').textContent"
        )


def test_samples_stand_side_by_side(opened):
    columns = opened.evaluate(
        "[...document.querySelectorAll('#samples .column h4')].map(c => c.firstChild.textContent)"
    )
    assert columns == ["after", "before"]
    assert opened.evaluate("document.querySelectorAll('#samples .sample').length") == 8
    assert NASTY in opened.evaluate("document.querySelector('#samples .sample pre').textContent")


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_nothing_is_wider_than_the_window(opened, width):
    opened.size(width, 800)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.evaluate("document.querySelector('#problems .board').clientWidth") > width / 4


def test_light_and_dark(opened):
    look = "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.querySelector('figure svg text')).fill"
    light = opened.evaluate(look)
    opened.size(1280, 900, dark=True)
    dark = opened.evaluate(look)
    assert light != dark
    for colours in (light, dark):  # text and paper are far apart
        numbers = [[int(n) for n in c.split(",")[:3]] for c in colours.replace("rgb(", "").split(")")[:2]]
        assert abs(sum(numbers[0]) - sum(numbers[1])) > 240
