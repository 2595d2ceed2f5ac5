"""URL templates of tile servers, `https://…/{z}/{x}/{y}.jpg?key=${KEY}`, whose secrets never leave them by accident."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote, urlsplit

from satx.errors import ConfigError, nearest_name
from satx.imagery.contract import Tile
from satx.imagery.places import check_places, row_from_south

MASK = "…"
SHORTEST_SECRET_CHARACTERS = 4  # shorter ones are found in any text

_PLACEHOLDER = re.compile(r"(?<!\$)\{[^{}]*\}")
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_KEY_NAME = re.compile(r"key|token|secret|passw|auth|^sig$|signature|credential|connectid|subscription", re.IGNORECASE)
_LEGAL = ":/?#[]@!$&'()*+,;=%{}~"  # characters that are left as they are; a percent sign begins an escape already
_EXAMPLE = "'https://tiles.example/{z}/{x}/{y}.jpg?key=${TILES_KEY}'"


def _quadkey(tile: Tile) -> str:
    """Return the quadkey of a tile: one digit per zoom (learn.microsoft.com, "Bing Maps Tile System")."""
    return "".join(str((tile.x >> bit & 1) | (tile.y >> bit & 1) << 1) for bit in reversed(range(tile.z)))


_PLACES: dict[str, Callable[[Tile], str]] = {
    "{z}": lambda tile: str(tile.z),
    "{x}": lambda tile: str(tile.x),
    "{y}": lambda tile: str(tile.y),
    "{-y}": lambda tile: str(row_from_south(tile)),
    "{q}": _quadkey,
}


@dataclass(frozen=True)
class Template:
    """The URL of every tile of a server.

    Attributes:
        shown: The template to print and to store: `${NAME}` is not expanded, and values that the query states, a user's name
            and a password are replaced by `…`.
        digest: SHA-256, 16 hexadecimal digits, of the stated values that do not look like keys: two layers of a server have
            different ones, two keys do not.
        warning: What to tell a user who wrote a key into the template; None if there is none.
        authorization: Value of the header of this name, from the user's name and password; empty if there are none.
        secrets: Keys and passwords as they may appear in an address, at least `SHORTEST_SECRET_CHARACTERS` long.
    """

    shown: str
    digest: str
    warning: str | None
    authorization: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    _expanded: str = field(repr=False)

    def url(self, tile: Tile) -> str:
        """Return the URL of a tile. It holds the secrets: it is for the connection only."""
        return _PLACEHOLDER.sub(lambda found: _PLACES[found[0]](tile), self._expanded)

    def is_betrayed_by(self, text: str) -> bool:
        """Return whether a text holds a key or a password."""
        return any(secret in text for secret in self.secrets)


def read_template(text: str, environ: Mapping[str, str]) -> Template:
    """Read the template of a tile server's URLs.

    `{z}`, `{x}` and `{y}` stand for the tile, with rows counted from the north; `{-y}` counts them from the south (TMS), and
    `{q}` is the quadkey (Bing). `${NAME}` is taken from the environment and percent-encoded; where it is a whole parameter,
    as in `?${SAS}`, it holds `name=value` pairs that are encoded already.

    Args:
        text: The template.
        environ: The environment.

    Raises:
        ConfigError: A placeholder is missing or unknown, a variable is not set, or the text is no URL of a web server. The
            message holds no secret.
    """
    text = text.strip().partition("#")[0]
    parts = _address(text)
    shown = _masked(text, is_address=parts is not None)
    _check_placeholders(text, shown)
    variables = {name: _value(name, environ, shown) for name in _VARIABLE.findall(text)}
    _check_address(text, parts, shown)
    literals = [(name, value) for name, value in _parameters(text) if value and not _is_reference(value)]
    keys = {name: value for name, value in literals if _KEY_NAME.search(name)}
    layers = [f"{name}={value}" for name, value in literals if name not in keys]
    expanded = _expanded(text, variables)
    user = urlsplit(expanded).netloc.rpartition("@")[0]
    return Template(
        shown=shown,
        digest=hashlib.sha256("&".join(layers).encode()).hexdigest()[:16],
        warning=_warning(keys, text),
        authorization=f"Basic {_basic(user)}" if user else "",
        secrets=_forms([*variables.values(), *keys.values(), *user.split(":")]),
        _expanded=expanded.replace(f"//{user}@", "//", 1) if user else expanded,
    )


def _check_placeholders(text: str, shown: str) -> None:
    found = set(_PLACEHOLDER.findall(text))
    if "{s}" in found:
        raise ConfigError(
            f"{shown}: {{s}} is not supported. Write the name of one server instead, such as https://a.tiles.example/…: with "
            f"several names browsers open more connections, but the limits of a server count for all of them."
        )
    for name in sorted(found.difference(_PLACES)):
        raise ConfigError(f"{shown}: unknown placeholder {name}. {nearest_name(name, _PLACES)}")
    if "{q}" not in found:
        check_places(found, shown, _EXAMPLE)


def _value(name: str, environ: Mapping[str, str], shown: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ConfigError(f"{shown}: expected the name of an environment variable in ${{…}}, such as {_EXAMPLE}.")
    value = environ.get(name, "")
    if not value:
        raise ConfigError(
            f"{shown}: the environment variable {name} is {'empty' if name in environ else 'not set'}. Set it, with "
            f"`export {name}=…`, and repeat the command."
        )
    return value


def _address(text: str) -> SplitResult | None:
    """Return the parts of the text if it is the address of a web server."""
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_address and text.isprintable() and " " not in text else None


def _check_address(text: str, parts: SplitResult | None, shown: str) -> None:
    """Raise an error if the text is no address of a web server, or if a key has no value."""
    if parts is None:
        raise ConfigError(f"{shown}: expected a URL that begins with https:// or http://, such as {_EXAMPLE}.")
    host = parts.netloc.rpartition("@")[2]
    if not re.fullmatch(r"[A-Za-z0-9.:_\[\]-]+", host):
        raise ConfigError(
            f"{shown}: expected the plain name of a server, got {host}. ${{NAME}} and placeholders may stand in the path and in "
            f"the query; write a name with other letters in its ASCII form, xn--…."
        )
    for name, value in _parameters(text):
        if not value and _KEY_NAME.search(name):
            raise ConfigError(
                f"{shown}: {name} has no value. Between double quotes the shell replaces ${{NAME}} itself, by nothing if it is "
                f"not set. Put the template between single quotes, and `export` the variable."
            )


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    def expand(found: re.Match[str]) -> str:
        is_whole_parameter = text[found.start() - 1] in "?&" and text[found.end() : found.end() + 1] in ("", "&")
        return quote(variables[found[1]], safe="=&%+" if is_whole_parameter else "")

    return quote(_VARIABLE.sub(expand, text), safe=_LEGAL)


def _masked(text: str, *, is_address: bool) -> str:
    """Return the text without the values that the query states, and without a user's name and password.

    In a text that is no address, all before the last `@` may be a password, except that `@2x` names sharper tiles.
    """
    address, mark, query = text.partition("?")
    user = r"^([A-Za-z]+:)?//[^/]*@" if is_address else r"^([A-Za-z]+:(?=//))?.*@(?!\dx)"
    address = re.sub(user, lambda found: f"{found[1] or ''}//{MASK}@", address)
    parts = []
    for part in query.split("&"):
        name, equals, value = part.partition("=") if "=" in part else ("", "", part)
        parts.append(name + equals + (value if not value or _is_reference(value) else MASK))
    return address + mark + "&".join(parts)


def _parameters(text: str) -> list[tuple[str, str]]:
    """Return the names and values of the query; the name is empty where there is none."""
    pairs = [part.partition("=") for part in text.partition("?")[2].split("&") if part]
    return [(name, value) if equals else ("", name) for name, equals, value in pairs]


def _is_reference(value: str) -> bool:
    """Return whether a value consists of placeholders and variables, and of nothing that could be a secret."""
    return not re.sub(r"[-,./:;_ ]", "", _PLACEHOLDER.sub("", _VARIABLE.sub("", value)))


def _basic(user: str) -> str:
    """Return a user's name and password as HTTP's basic authentication encodes them (RFC 7617)."""
    name, _, password = user.partition(":")
    return base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()


def _forms(values: Iterable[str]) -> tuple[str, ...]:
    """Return the values as they may appear in an address: as they are, decoded, and percent-encoded."""
    forms = {form for value in values for form in (value, unquote(value), quote(value, safe=""), quote(unquote(value)))}
    return tuple(sorted(form for form in forms if len(form) >= SHORTEST_SECRET_CHARACTERS))


def _warning(keys: Mapping[str, str], text: str) -> str | None:
    name, _, password = urlsplit(text).netloc.rpartition("@")[0].partition(":")
    if not keys and not _VARIABLE.sub("", password or name):
        return None
    name = next(iter(keys), "password")
    variable = re.sub(r"\W+", "_", f"TILES_{name}").upper()
    written = f"'…{name}=${{{variable}}}…'" if keys else f"'https://name:${{{variable}}}@…'"
    return (
        f"The template states a {name}, which others can see in the list of processes and in the shell's history. "
        f"`export {variable}=…`, and write {written} between single quotes, so that the shell leaves it as it is."
    )
