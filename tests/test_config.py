from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from satx.catalogue import BACKBONES
from satx.config import Configuration, ModelConfig, parse_assignments, read_yaml, setting_names, validated
from satx.errors import ConfigError
from satx.session_config import SessionConfig, load_session

ROOT = Path(__file__).resolve().parents[1]
SHIPPED_SESSIONS = sorted((ROOT / "experiments").glob("session*.yaml"))


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a configuration as in YAML, with few possible values so that two draws are often equal."""
    backbone = draw(st.sampled_from(["mobilenetv2", "convnexttiny"]))
    cuts = BACKBONES[backbone].unfreeze_names
    return {
        "model": {
            "backbone": backbone,
            "unfreeze": draw(st.sampled_from([cuts[0], cuts[1], cuts[-1]])),
            "dense_units": draw(st.sampled_from([0, 64])),
            "activation": draw(st.sampled_from(["relu", "elu"])),
        },
        "train": {
            "seed": draw(st.integers(0, 1)),
            "finetune_epochs": draw(st.sampled_from([1, 2])),
            "finetune_learning_rate": draw(st.sampled_from([1e-4, 1e-5])),
        },
    }


def what_matters(tree: dict[str, Any]) -> Any:
    model, train = dict(tree["model"]), dict(tree["train"])
    if model["unfreeze"] == "none":
        train = {"seed": train["seed"]}
    if model["dense_units"] == 0:
        model.pop("activation")
    return model, train


@given(trees(), trees())
def test_digests_are_equal_exactly_if_the_settings_that_matter_are_equal(
    left: dict[str, Any], right: dict[str, Any]
) -> None:
    digests = [Configuration.model_validate(tree).digest() for tree in (left, right)]
    assert (digests[0] == digests[1]) == (what_matters(left) == what_matters(right))


@given(trees())
def test_a_digest_survives_json_and_dotted_names(tree: dict[str, Any]) -> None:
    configuration = Configuration.model_validate(tree)
    assert Configuration.model_validate_json(configuration.model_dump_json()).digest() == configuration.digest()
    again = Configuration().with_values(configuration.flat(), source="flat")
    assert again == configuration
    assert again.digest() == configuration.digest()


def other_value(name: str, value: Any) -> Any:
    choices = {
        "model.backbone": "mobilenetv2",
        "model.unfreeze": "block13",
        "model.activation": "gelu",
        "train.optimizer": "sgd",
        "train.schedule": "cosine",
        "train.class_weight": "none",
        "train.precision": "float32",
        "augmentation.mode": "random",
    }
    if name in choices:
        return choices[name]
    return value + 1 if isinstance(value, int) and name != "augmentation.num_flips" else value / 2 or 0.25


COSTS_ONLY = ("cache", "cache_gb")


@pytest.mark.parametrize("name", [name for name in setting_names() if name not in COSTS_ONLY])
def test_every_setting_changes_the_digest_if_all_settings_are_used(name: str) -> None:
    base = Configuration().with_values({"augmentation.num_flips": 4}, source="test")
    value = other_value(name, base.flat()[name])
    changed = base.with_values({name: int(value) if name == "augmentation.num_flips" else value}, source="test")
    assert changed.digest() != base.digest()


@pytest.mark.parametrize(("name", "value"), [("cache", "off"), ("cache", False), ("cache_gb", 3.5)])
def test_cache_settings_do_not_change_the_digest(name: str, value: Any) -> None:
    changed = Configuration().with_values({name: value}, source="test")
    assert changed != Configuration()
    assert changed.cache == ("off" if name == "cache" else "auto")
    assert changed.digest() == Configuration().digest()


@pytest.mark.parametrize("name", ["train.finetune_learning_rate", "train.finetune_epochs"])
def test_a_frozen_backbone_ignores_the_settings_of_fine_tuning(name: str) -> None:
    frozen = Configuration().with_values({"model.unfreeze": "none"}, source="test")
    changed = frozen.with_values({name: other_value(name, frozen.flat()[name])}, source="test")
    assert changed != frozen
    assert changed.digest() == frozen.digest()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"train.batch_sise": 16}, ["'train.batch_sise'", "'train.batch_size'"]),
        ({"batch_size": 16}, ["'batch_size'", "'train.batch_size'"]),
        ({"train.batch_size": 0}, ["train.batch_size", "1", "got 0"]),
        ({"train.batch_size": 1.5}, ["train.batch_size", "got 1.5"]),
        ({"train.batch_size": "many"}, ["train.batch_size", "got 'many'"]),
        ({"train.batch_size": None}, ["train.batch_size", "got None"]),
        ({"train.batch_size": [16]}, ["train.batch_size", "got [16]"]),
        ({"train.head_learning_rate": 0}, ["train.head_learning_rate", "got 0"]),
        ({"train.head_learning_rate": 1.5}, ["train.head_learning_rate", "1", "got 1.5"]),
        ({"train.head_learning_rate": float("nan")}, ["train.head_learning_rate", "got nan"]),
        ({"model.dropout": 1.0}, ["model.dropout", "got 1.0"]),
        ({"train.optimizer": "adan"}, ["train.optimizer", "'adam'", "'adamw'", "'rmsprop'", "'sgd'", "got 'adan'"]),
        ({"model.backbone": "xeption"}, ["'xeption'", "'xception'"]),
        ({"model.unfreeze": "blok14"}, ["xception", "'blok14'", "'block14'"]),
        ({"model.backbone": "mobilenetv2", "model.unfreeze": "block13"}, ["mobilenetv2", "'block13'", "block14"]),
        ({"model": {"backbone": "xception"}}, ["'model'", "model.backbone"]),
    ],
)
def test_the_error_for_a_wrong_setting_names_its_source_its_value_and_the_valid_ones(
    values: dict[str, Any], expected: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        Configuration().with_values(values, source="some.yaml")
    assert str(caught.value).startswith("some.yaml: ")
    assert [text for text in expected if text not in str(caught.value)] == []


def test_all_errors_of_a_file_are_reported_at_once() -> None:
    tree = {"trian": {}, "train": {"batch_size": 0, "optimiser": "adam"}, "model": 3}
    with pytest.raises(ConfigError) as caught:
        validated(Configuration, tree, source="some.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("some.yaml: ") for line in lines)
    assert any("'trian'" in line and "'train'" in line for line in lines)
    assert any("'train.optimiser'" in line and "'optimizer'" in line for line in lines)


def test_a_missing_setting_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"session9\.yaml.*positive_class"):
        validated(
            SessionConfig, {"session": "9", "task": "school", "data_dir": "x", "sweep": "quick"}, source="session9.yaml"
        )


def test_a_configuration_cannot_be_changed() -> None:
    configuration = Configuration()
    with pytest.raises(ValidationError):
        configuration.image_size_px = 64
    assert configuration == Configuration()


@pytest.mark.parametrize("path", SHIPPED_SESSIONS, ids=lambda path: path.stem)
def test_every_shipped_session_loads_and_starts_with_a_comment(path: Path) -> None:
    assert path.read_text().startswith("# ")
    session = load_session(path.stem.removeprefix("session"))
    assert f"session{session.session}" == path.stem == session.experiment_name
    assert (ROOT / "sweeps" / f"{session.sweep}.yaml").is_file()


def test_two_sessions_are_shipped() -> None:
    assert [path.stem for path in SHIPPED_SESSIONS] == ["session1", "session2"]


def test_the_error_for_an_unknown_session_lists_the_existing_ones() -> None:
    with pytest.raises(ConfigError, match=r"session9\.yaml.*session1.*session2"):
        load_session("9")


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"a: [1,", "line 1"),
        (b"a: \xff\xfe", "0xff"),
        (b"- a\n- b\n", "got list"),
        (b"", "got NoneType"),
        (b"!!python/object/apply:os.system ['true']", "python/object/apply:os.system"),
    ],
)
def test_a_file_that_is_not_a_yaml_mapping_is_refused(tmp_path: Path, content: bytes, received: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / "x.yaml")
    assert "x.yaml" in str(caught.value)
    assert received in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        read_yaml(tmp_path / "x.yaml")


def test_assignments_are_read_as_yaml_scalars() -> None:
    read = parse_assignments(["train.batch_size=16", "train.head_learning_rate=1e-4", "model.unfreeze=none", "a=b=c"])
    assert read == {
        "train.batch_size": 16,
        "train.head_learning_rate": 1e-4,
        "model.unfreeze": "none",
        "a": "b=c",
    }


@pytest.mark.parametrize("text", ["train.batch_size", "", "train.batch_size=[1,", 'model.backbone="x', "a=@"])
def test_the_error_for_an_invalid_assignment_gives_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--set train\.batch_size=16"):
        parse_assignments([text])


BOMB = "a: &a [x, x]\n" + "\n".join(
    f"{new}: &{new} [*{old}, *{old}]" for old, new in pairwise("abcdefghijklmnopqrstuvwxyz")
)


@pytest.mark.parametrize(
    "text",
    [
        "train.batch_size=" + "[" * 3000,
        "train.batch_size=" + "9" * 5000,
        "x" * 5000 + "=1",
        "x" * 5000,
        "model.backbone=" + "x" * 5000,
        "train.batch_size=[&a [1], *a]",
    ],
)
def test_a_hostile_assignment_is_refused_in_one_short_sentence(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        Configuration().with_values(parse_assignments([text]), source="--set")
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    "text", [BOMB, "[" * 3000, "a: " + "9" * 5000, "a: " + "x" * 2_000_000, "a: !!python/object:os.x {}"]
)
def test_a_hostile_file_is_refused_in_one_short_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml") as error:
        read_yaml(tmp_path / "x.yaml")
    assert len(str(error.value)) < 1500


@given(st.floats(1e-12, 1, allow_subnormal=False))
def test_any_learning_rate_can_be_written_in_exponent_notation(rate: float) -> None:
    values = parse_assignments([f"train.head_learning_rate={rate:e}"])
    configured = Configuration().with_values(values, source="--set")
    assert configured.train.head_learning_rate == float(f"{rate:e}")


def test_defaults_of_every_backbone_are_valid() -> None:
    for name, backbone in BACKBONES.items():
        for unfreeze in backbone.unfreeze_names:
            assert ModelConfig(backbone=name, unfreeze=unfreeze).unfreeze == unfreeze
