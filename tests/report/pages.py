"""What tests of pages share: their tags, a browser, and a name that would do harm if it were not escaped."""

from html.parser import HTMLParser
from shutil import which

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7*7 }}$"
CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")


def leaving(page: str) -> list[str]:
    """Addresses that a page would ask for outside of its own folder."""
    found = [value for _, attributes in Tags(page).found for name, value in attributes.items() if name in ("src", "href")]
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
