"""Links that a terminal opens with a click, or whole URLs where it does not."""

from __future__ import annotations

import os

from rich.style import Style
from rich.text import Text

from satx.commands.console import out

WITHOUT_LINKS = {"TERM": ("linux",), "TERM_PROGRAM": ("Apple_Terminal",)}  # show the text of a link, but do not open it


def shows_links() -> bool:
    """Return whether standard output is a terminal that opens the link of a text (the escape sequence OSC 8)."""
    lacks = any(os.environ.get(name) in values for name, values in WITHOUT_LINKS.items())
    return out.is_terminal and out.color_system is not None and not lacks


def print_link(url: str, text: str) -> None:
    """Print a link on a line of its own: as `text` if the terminal opens the links of texts, else as the whole URL.

    A URL of hundreds of characters would be broken into several lines, which no terminal joins again.
    """
    line = Text(text, style=Style(link=url, underline=True)) if shows_links() else Text(url)
    out.print(Text("  ").append_text(line), highlight=False, soft_wrap=True)
