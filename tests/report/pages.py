"""What tests of pages share: their tags, a browser, and a name that would do harm if it were not escaped."""

from html.parser import HTMLParser
from shutil import which

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7*7 }}$"
CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")


class Tags(HTMLParser):
    """Every opening tag with its attributes, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Keep it."""
        self.found.append((tag, dict(attrs)))
