"""What tests of pages share: their tags, a browser, and a name that would do harm if it were not escaped."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from shutil import which
from typing import Any

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7*7 }}$"
CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")

SOFTWARE = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""Three dimensions without a graphics card."""


def leaving(page: str) -> list[str]:
    """Addresses that a page would ask for outside of its own folder; the links to papers are asked for by no one but the reader."""
    found = [
        value
        for tag, attributes in Tags(page).found
        for name, value in attributes.items()
        if name in ("src", "href") and not (tag == "a" and value.startswith("https://arxiv.org/abs/"))
    ]
    return [one for one in found if one.startswith(("/", "..")) or (":" in one and not one.startswith("data:"))]


class Tags(HTMLParser):
    """Every opening tag with its attributes, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Keep it."""
        self.found.append((tag, dict(attrs)))


@contextmanager
def opened(page_file: Path, width: int = 1200) -> Iterator[tuple[Any, list[str]]]:
    """The page in a browser without a network, and what went wrong there: errors, dialogs, requests off the file."""
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *SOFTWARE])
        page = browser.new_context(offline=True, viewport={"width": width, "height": 900}).new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(("file:", "data:", "blob:")) else None)
        page.goto(page_file.as_uri())
        yield page, wrong
        browser.close()


def laid_out(page: Any) -> tuple[list[tuple[float, float]], float, str]:
    """Natural and shown width of every image once all are there, how far the page is too wide, and its title."""
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every(i => i.complete)")
    sizes = page.eval_on_selector_all("img", "all => all.map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return [tuple(pair) for pair in sizes], overflow, page.title()


def sideways(page: Any) -> list[str]:
    """Classes of the tables that are wider than their place, so that they must be scrolled sideways."""
    wide = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.firstElementChild.className)"
    return page.eval_on_selector_all(".scroll", wide)


def chart(page: Any, name: str) -> Any:
    """A chart, scrolled to and drawn."""
    place = page.locator(f'[data-chart="{name}"]')
    place.scroll_into_view_if_needed()
    page.wait_for_selector(f'[data-chart="{name}"][data-drawn]', timeout=60_000)
    return place


def slid(page: Any) -> tuple[str, str, str]:
    """The first spectrum before and after its slider is moved to its beginning by the keyboard, and the step that is then told."""
    slider = chart(page, "spectra").locator("input[type=range]")
    shown = "JSON.stringify(document.querySelector('[data-chart=spectra] .plot').data[0].y)"
    before = page.evaluate(shown)
    slider.focus()
    page.keyboard.press("Home")
    return before, page.evaluate(shown), page.locator("[data-chart=spectra] output").inner_text()


def turned(page: Any) -> tuple[str, str]:
    """Where the camera of the planes is before and after the mouse has dragged over them."""
    box = chart(page, "planes").locator(".plot").bounding_box()
    camera = "JSON.stringify(document.querySelector('[data-chart=planes] .plot')._fullLayout.scene._scene.getCamera().eye)"
    page.wait_for_function("document.querySelector('[data-chart=planes] canvas')")
    before = page.evaluate(camera)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 40, steps=6)
    page.mouse.up()
    return before, page.evaluate(camera)


def unexplained(page: str) -> set[str]:
    """Units in the heads of a page's tables that stand before their meaning, or have none."""
    told = page.partition('id="units"')[2].partition("</p>")[0]
    before, _, after = page.partition('id="units"')
    heads = " ".join(re.findall(r"<th\b[^>]*>(.*?)</th>", before + after, flags=re.S))
    named = set(re.findall(r"\b(GFLOP|TFLOP|FLOPs|nats|bits|points)\b", heads))
    return {unit for unit in named if f"{unit}:" not in told or unit in " ".join(re.findall(r"<th\b.*?</th>", before, flags=re.S))}
