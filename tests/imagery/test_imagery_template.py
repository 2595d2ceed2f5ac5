"""Templates of tile servers: what they become, and what they never show."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs, unquote, urlsplit

import mercantile
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satx.errors import ConfigError
from satx.imagery.contract import Tile
from satx.imagery.template import read_template

SECRET = "pk.S3cret+/=&? ü"
TILE = Tile("5-17-10", 5, 17, 10)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://t.example/{z}/{x}/{y}.jpg", "https://t.example/5/17/10.jpg"),
        ("http://t.example:8080/{z}/{y}/{x}", "http://t.example:8080/5/10/17"),
        ("https://t.example/{z}/{x}/{-y}.png", "https://t.example/5/17/21.png"),
        ("https://t.example/q/{q}?n=1", f"https://t.example/q/{mercantile.quadkey(17, 10, 5)}?n=1"),
        ("https://t.example/{z}/{x}/{y}@2x.png#top", "https://t.example/5/17/10@2x.png"),
        ("https://t.example/wmts?l=a b&TILEROW={y}&TILECOL={x}&M={z}", None),
        ("https://t.example/ä/{z}/{x}/{y}", "https://t.example/%C3%A4/5/17/10"),
        ("https://t.example/a%2Fb/{z}/{x}/{y}", "https://t.example/a%2Fb/5/17/10"),
    ],
)
def test_placeholders_become_the_tile(text: str, url: str | None) -> None:
    if url is None:
        with pytest.raises(ConfigError, match="expected a URL"):
            read_template(text, {})
    else:
        assert read_template(text, {}).url(TILE) == url


@given(st.integers(1, 24), st.data())
def test_quadkeys_are_those_of_mercantile(zoom: int, data: st.DataObject) -> None:
    x, y = (data.draw(st.integers(0, 2**zoom - 1)) for _ in range(2))
    url = read_template("https://t.example/{q}", {}).url(Tile("", zoom, x, y))
    assert url == f"https://t.example/{mercantile.quadkey(x, y, zoom)}"


@given(st.text(min_size=1))
def test_values_of_the_environment_arrive_as_they_are_and_show_nowhere(value: str) -> None:
    """Whatever a key consists of, it stays one value, and cannot become another host, a path or a placeholder."""
    value = value.encode(errors="ignore").decode() or "x"
    template = read_template("https://t.example/v/{z}/{x}/{y}?key=${KEY}&b=2", {"KEY": value})
    parts = urlsplit(template.url(TILE))
    assert (parts.netloc, parts.path, parts.fragment) == ("t.example", "/v/5/17/10", "")
    assert parse_qs(parts.query, keep_blank_values=True, strict_parsing=True) == {"key": [value], "b": ["2"]}
    assert template.shown == "https://t.example/v/{z}/{x}/{y}?key=${KEY}&b=…"


def test_a_whole_parameter_of_the_environment_stays_encoded() -> None:
    template = read_template("https://t.example/{z}/{x}/{y}?${SAS}", {"SAS": "sv=1&sig=a%2Bb%3D"})
    assert template.url(TILE).endswith("/5/17/10?sv=1&sig=a%2Bb%3D")


def test_a_users_name_and_password_become_a_header() -> None:
    template = read_template("https://me:${WORD}@t.example/{z}/{x}/{y}", {"WORD": "p:w/ü"})
    assert template.authorization == f"Basic {base64.b64encode('me:p:w/ü'.encode()).decode()}"
    assert template.url(TILE) == "https://t.example/5/17/10"
    assert template.shown == "https://…@t.example/{z}/{x}/{y}"
    assert template.warning is None


@pytest.mark.parametrize(
    "text",
    [
        f"https://t.example/{{z}}/{{x}}/{{y}}?key={SECRET.replace('&', '').replace('?', '').replace(' ', '')}",
        "https://t.example/{z}/{x}/{y}?a=1&access_token=pk.S3cret",
        "https://t.example/{z}/{x}/{y}?sig=pk.S3cret&style={z}",
        "https://t.example/{z}/{x}/{y}?pk.S3cret",
        "https://me:pk.S3cret@t.example/{z}/{x}/{y}",
        "https://pk.S3cret@t.example/{z}/{x}/{y}@2x.png",
    ],
)
def test_stated_keys_work_and_are_not_shown(text: str) -> None:
    template = read_template(text, {})
    assert "S3cret" in template.url(TILE) + base64.b64decode(template.authorization.partition(" ")[2]).decode()
    assert "S3cret" not in repr(template) + template.shown + str(template.warning) + template.digest
    assert not template.authorization or template.authorization.removeprefix("Basic ") not in repr(template)
    if "?pk." not in text:  # a value without a name may be anything
        assert (
            template.warning is not None and "export TILES_" in template.warning and "single quotes" in template.warning
        )
        assert template.is_betrayed_by(f"https://elsewhere.example/?k={unquote('pk.S3cret')}") == ("+" not in text)


def test_variables_need_no_warning() -> None:
    assert read_template("https://t.example/{z}/{x}/{y}?key=${KEY}&layer=2019", {"KEY": SECRET}).warning is None


def test_layers_of_a_server_differ_and_keys_do_not() -> None:
    def digest(query: str) -> tuple[str, str]:
        template = read_template(f"https://t.example/{{z}}/{{x}}/{{y}}?{query}", {"KEY": SECRET})
        return template.shown, template.digest

    assert digest("layer=2019&key=aaaa") == digest("layer=2019&key=bbbb")
    assert digest("layer=2019&key=aaaa") != digest("layer=2020&key=aaaa")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://t.example/{x}/{y}", r"\{z\} is missing"),
        ("https://t.example/{z}/{x}", r"\{y\} is missing"),
        ("https://t.example/", r"\{z\} and \{x\} and \{y\} are missing"),
        ("https://{s}.t.example/{z}/{x}/{y}", r"\{s\} is not supported"),
        ("https://t.example/{z}/{x}/{Y}", r"unknown placeholder \{Y\}"),
        ("https://t.example/{z}/{x}/{y}?k=${NONE}", "NONE is not set"),
        ("https://t.example/{z}/{x}/{y}?k=${EMPTY}", "EMPTY is empty"),
        ("https://t.example/{z}/{x}/{y}?k=${a b}", "name of an environment variable"),
        ("https://${KEY}/{z}/{x}/{y}", "plain name of a server"),
        ("https://münchen.example/{z}/{x}/{y}", "xn--"),
        ("https://t.example/{z}/{x}/{y}?key=", "single quotes"),
        ("t.example/{z}/{x}/{y}?key=S3cret", "begins with https://"),
        ("ftp://me:S3cret@t.example/{z}/{x}/{y}", "begins with https://"),
        ("https://me:S3/cret@t.example/{z}/{x}/{y}?S3cret", "begins with https://"),
        ("me:S3cret@t.example/{z}/{x}/{y}@2x", "begins with https://"),
        ("https://t.example/{z}\n/{x}/{y}?key=S3cret", "begins with https://"),
        ("https:///{z}/{x}/{y}?a=S3cret", "begins with https://"),
        ("https://t.example:port/{z}/{x}/{y}?a=S3cret", "begins with https://"),
    ],
)
def test_wrong_templates_are_refused_without_showing_secrets(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_template(text, {"KEY": SECRET, "EMPTY": ""})
    assert "S3cret" not in str(caught.value) and "cret@" not in str(caught.value)


@given(st.text(alphabet="htps:/@?&=#${}[]%.zxyqKEY \n1", max_size=40))
def test_any_text_is_a_template_or_a_wrong_setting(text: str) -> None:
    try:
        template = read_template(text, {"K": SECRET, "KEY": SECRET})
    except ConfigError as error:
        assert "S3cret" not in str(error)
    else:
        assert "S3cret" not in repr(template) + json.dumps([template.shown, template.digest])
        assert template.url(TILE).isascii()
