"""Tests of a session's ancestors: each error is said once, and nothing is read in a circle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from satx.errors import ConfigError
from satx.session_config import load_session
from satx.sessions.lineage import ancestors, open_manifest
from sessions.small_sessions import first_session, imported, made, write_folder


@pytest.fixture
def chain(project: Path) -> Path:
    """Make session 12 from session 1, and session 13 from session 12."""
    first_session(project)
    for name, parent in (("12", "1"), ("13", "12")):
        more = write_folder(project / f"more{name}", {"train/school/new.png": 900 + int(name)})
        made(name, parent=parent, add=more)
    return project


def change(project: Path, name: str, **values: Any) -> None:
    path = project / f"experiments/session{name}.yaml"
    content = yaml.safe_load(path.read_text())
    content["manifest"] |= values
    path.write_text(yaml.safe_dump({**content, "manifest": {k: v for k, v in content["manifest"].items() if v}}))


def test_the_ancestors_of_a_session_are_its_parent_and_so_on(chain: Path) -> None:
    session, manifest = open_manifest("13")
    assert [one.session for one in ancestors(session)] == ["12", "1"]
    assert manifest.parent_digest == open_manifest("12")[1].digest
    assert ancestors(load_session("1")) == ()


@pytest.mark.parametrize(("child", "parent", "cycle"), [("1", "13", "13 → 12 → 1 → 13"), ("12", "12", "13 → 12 → 12")])
def test_a_cycle_is_refused(chain: Path, child: str, parent: str, cycle: str) -> None:
    change(chain, child, parent=parent, parent_digest=open_manifest("13")[1].digest)
    said = rf"session{child}.yaml: expected an earlier session as the parent, got a cycle: {cycle}. Correct"
    with pytest.raises(ConfigError, match=said):
        open_manifest("13")


def test_a_parent_that_is_missing_is_named_with_its_child(chain: Path) -> None:
    (chain / "experiments/session12.yaml").unlink()
    said = r"session13.yaml: expected its parent, session 12, which cannot be read: No file experiments/session12.yaml"
    with pytest.raises(ConfigError, match=said):
        open_manifest("13")


def test_a_parent_with_another_digest_is_refused(chain: Path) -> None:
    change(chain, "12", digest="0" * 64)
    with pytest.raises(
        ConfigError, match=re.escape("session13.yaml was made from session 12 with the digest")
    ) as refused:
        open_manifest("13")
    assert "session12.yaml has 000000000000…" in str(refused.value)


def test_a_parent_without_a_digest_and_a_session_without_a_manifest_are_refused(chain: Path) -> None:
    change(chain, "13", parent_digest=None)
    with pytest.raises(ConfigError, match="expected parent and parent_digest, or neither, got one of them"):
        open_manifest("13")
    text = (chain / "experiments/session1.yaml").read_text()
    (chain / "experiments/session1.yaml").write_text(text[: text.index("# Written by")])
    with pytest.raises(ConfigError, match="satx session import 1 data/session1"):
        open_manifest("12")


def test_a_session_cannot_be_its_own_parent(chain: Path) -> None:
    with pytest.raises(ConfigError, match="got session 13 itself"):
        made("13", parent="13", add=chain / "more12")
    with pytest.raises(ConfigError, match="got session 14 itself"):
        imported("14", chain / "data/session1", parent="14")
