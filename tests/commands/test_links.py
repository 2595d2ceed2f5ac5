"""Tests of links: hyperlinks on terminals that open them, whole URLs elsewhere."""

from __future__ import annotations

import re

import pytest
from rich.color import ColorSystem

from satx.commands.console import out
from satx.commands.links import print_link

URL = "http://127.0.0.1:5000/#/experiments/7/runs?" + "&".join(f"selected={number:032x}" for number in range(12))
TEXT = "curves of [bold]xception[/bold] and /tiles/[red]"


@pytest.fixture(autouse=True)
def narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the console write as to a terminal of 80 columns that shows links."""
    monkeypatch.setattr(out, "_file", None)
    monkeypatch.setattr(out, "_width", 80)
    monkeypatch.setattr(out, "_force_terminal", True)
    monkeypatch.setattr(out, "_color_system", ColorSystem.TRUECOLOR)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("TERM_PROGRAM", raising=False)


def test_a_terminal_shows_a_short_text_that_opens_the_whole_url(capsys: pytest.CaptureFixture[str]) -> None:
    print_link(URL, TEXT)
    said = capsys.readouterr().out
    assert re.findall("\x1b]8;[^;]*;([^\x1b]+)\x1b", said) == [URL]
    seen = re.sub("\x1b(]8;[^\x1b]*\x1b\\\\|\\[[0-9;]*m)", "", said)
    assert seen == f"  {TEXT}\n", "brackets are text, not markup"


def test_a_file_gets_the_whole_url_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(out, "_force_terminal", False)
    print_link(URL, TEXT)
    assert capsys.readouterr().out == f"  {URL}\n"


@pytest.mark.parametrize(("variable", "value"), [("TERM_PROGRAM", "Apple_Terminal"), ("TERM", "linux")])
def test_a_terminal_that_opens_no_links_gets_the_whole_url(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    print_link(URL, TEXT)
    said = capsys.readouterr().out
    assert URL in said and "\x1b]8" not in said


def test_a_dumb_terminal_gets_the_whole_url(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(out, "_color_system", None)
    print_link(URL, TEXT)
    assert capsys.readouterr().out == f"  {URL}\n"
