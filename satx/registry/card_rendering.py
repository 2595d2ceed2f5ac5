"""A document of sections, as Markdown for MLflow's pages and as one HTML file that loads nothing over the network.

Names of classes, slices, tiles and runs are untrusted input: both templates escape every value, and a content security
policy allows only the page's own style and embedded images.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from satx.reports.page import TEMPLATES as REPORT_TEMPLATES
from satx.reports.page import breakable, content_policy, data_uri

TEMPLATES = Path(__file__).resolve().parent / "templates"

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "@": "&#64;", "$": "&#36;"}


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        headings: One per column.
        rows: The cells of each row; the first cell names the row.
        caption: A sentence below the table.
        pictures: One JPEG per row; the page then shows every row as a picture with the row's cells below it.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    pictures: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A figure as PNG, for light and for dark screens, and what it shows, in words."""

    description: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Section:
    """A part of a document; what it has is shown in the order of the attributes.

    Attributes:
        title: Its heading.
        paragraphs: Sentences.
        links: Texts and addresses within MLflow's pages; only Markdown has them.
        points: Sentences of a list.
        tables: Tables.
        drawings: Figures; only the page shows them.
        settings: Names and values of many settings; the page shows them in several columns.
        commands: Commands to copy.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    points: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()


def render_markdown(title: str, sections: tuple[Section, ...]) -> str:
    """Return the document as Markdown with tables, without figures and pictures."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,  # of HTML; `finalize` escapes for Markdown
        finalize=escaped,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("model_card.md.j2").render(title=title, sections=sections)


def render_html(title: str, sections: tuple[Section, ...]) -> str:
    """Return the document as one HTML file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"png": data_uri, "jpeg": _jpeg_uri, "zip": zip, "breakable": breakable}
    # The same look as the page of `satx compare`; the card's own rules follow and so prevail.
    files = (REPORT_TEMPLATES / "compare.css", TEMPLATES / "model_card.css")
    style = "".join(file.read_text(encoding="utf-8") for file in files)
    return environment.get_template("model_card.html.j2").render(
        title=title, sections=sections, style=Markup(style), policy=content_policy(style=style)
    )


def escaped(value: object) -> str:
    """Return a value as text that Markdown shows literally, on one line, in a paragraph, list or table.

    Covers CommonMark, GitHub's extensions and Showdown, which MLflow's pages use: their emphasis, code, links, bare
    addresses, mentions, tables, HTML, and what begins a list or a heading.
    """
    text = " ".join(str(value).split())
    text = re.sub(r"[\\`*_{}\[\]()#~|]", r"\\\g<0>", text)
    text = re.sub(r'[&<>"@$]', lambda found: _ENTITIES[found[0]], text)
    text = re.sub(r":(?=//)", r"\\:", text)
    text = re.sub(r"(www)\.", r"\1\\.", text, flags=re.IGNORECASE)
    text = re.sub(r"^([-+=])(?!\d)", r"\\\1", text)
    return re.sub(r"^(\d+)\.(?=\s|$)", r"\1\\.", text)


def _jpeg_uri(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
