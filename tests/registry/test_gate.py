"""Tests of the gate's YAML."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.small_runs import RULES
from satx.errors import ConfigError
from satx.registry.gate import load_gate
from satx.registry.rules import RULES as FUNCTIONS


def written(tmp_path: Path, rules: dict[str, Any], **threshold: Any) -> Path:
    path = tmp_path / "ours.yaml"
    path.write_text(yaml.safe_dump({"threshold": threshold or {"rule": "youden"}, "rules": rules}))
    return path


def test_the_default_gate_asks_every_rule() -> None:
    gate = load_gate()
    assert [name for name, rule in gate.rules if rule is not None] == list(FUNCTIONS) == list(RULES)
    assert str(gate.threshold) == "youden"


def test_a_gate_asks_only_the_rules_that_it_has(tmp_path: Path) -> None:
    gate = load_gate(written(tmp_path, {"export_size": {"at_most_gb": 1}}, rule="recall_at_fpr", at=0.05))
    assert [name for name, rule in gate.rules if rule is not None] == ["export_size"]
    assert str(gate.threshold) == "recall_at_fpr(0.05)"


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"auc_not_worst": {}}, "ours.yaml: .*auc_not_worst.*Did you mean 'auc_not_worse'"),
        ({"export_size": {"at_most_gbs": 1}}, "at_most_gbs.*Did you mean 'at_most_gb'"),
        ({"export_size": {}}, "rules.export_size.at_most_gb is missing"),
        ({"export_size": {"at_most_gb": 0}}, "rules.export_size.at_most_gb: .*greater than 0"),
        ({"auc_floor": {"at_least": 1}}, "auc_floor.at_least: .*less than 1"),
        ({"slice_floor": RULES["slice_floor"] | {"metric": "auk"}}, "slice_floor.metric.*'accuracy' or 'recall'"),
    ],
)
def test_what_a_gate_may_not_contain_is_named(tmp_path: Path, rules: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_gate(written(tmp_path, rules))


def test_a_threshold_rule_without_its_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"threshold: .*at=None"):
        load_gate(written(tmp_path, RULES, rule="recall_at_fpr"))


@pytest.mark.parametrize("rules", [{}, {"export_size": None}])
def test_a_gate_without_rules_is_refused(tmp_path: Path, rules: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"ours.yaml: rules: expected at least one rule, got none.*--force REASON"):
        load_gate(written(tmp_path, rules))


@pytest.mark.parametrize("limit", ["own_size_at_most", "resized_at_most"])
def test_the_limits_of_parity_can_only_be_made_stricter(tmp_path: Path, limit: str) -> None:
    shipped = RULES["served_parity"]
    load_gate(written(tmp_path, {"served_parity": shipped | {limit: shipped[limit] / 2}}))
    with pytest.raises(ConfigError, match=f"served_parity.{limit}: .*less than or equal to {shipped[limit]}"):
        load_gate(written(tmp_path, {"served_parity": shipped | {limit: shipped[limit] * 1.01}}))


def test_a_gate_knows_the_file_that_it_was_read_from(tmp_path: Path) -> None:
    path = written(tmp_path, RULES)
    file = load_gate(path).file
    assert file is not None
    assert (file.name, file.sha256) == ("ours.yaml", hashlib.sha256(path.read_bytes()).hexdigest())
    default = load_gate().file
    assert default is not None and default.name == "gate.yaml"
