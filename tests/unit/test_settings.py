"""Settings: default < file < environment < flag, unknown keys named, private files only."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation import settings
from federation.errors import ConfigError, PermissionsError
from federation.settings import Settings


class Sample(Settings):
    """Settings as a room would define them."""

    learning_rate: float = Field(default=1e-3, gt=0)
    name: str = "nobody"
    targets: tuple[str, ...] = ("all",)


def write(path: Path, content: object, mode: int = 0o600) -> Path:
    """Write `content` as JSON with `mode`; returns `path`."""
    path.write_text(json.dumps(content), encoding="utf-8")
    path.chmod(mode)
    return path


def test_each_layer_overrules_the_one_before(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"learning_rate": 0.1, "name": "file"})
    loaded, sources = settings.load(
        Sample,
        path,
        environment={"CONSCIENCE_NAME": "environment", "CONSCIENCE_LEARNING_RATE": "0.2"},
        flags={"learning_rate": 0.3, "name": None},
    )
    assert loaded == Sample(learning_rate=0.3, name="environment")
    assert sources == {"learning_rate": "flag", "name": "environment", "targets": "default"}


def test_no_file_means_defaults(tmp_path: Path) -> None:
    assert settings.load(Sample, tmp_path / "absent.json")[0] == Sample()
    assert settings.load(Sample, None)[0] == Sample()


def test_lists_can_come_from_the_environment() -> None:
    found = settings.load(Sample, None, environment={"CONSCIENCE_TARGETS": '["q", "v"]'})[0]
    assert found.targets == ("q", "v")


def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"learing_rate": 0.1})
    with pytest.raises(ConfigError, match=r"'learing_rate'.*'learning_rate'"):
        settings.load(Sample, path)


def test_a_key_like_nothing_known_gets_no_guess(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"zzzz": 1})
    with pytest.raises(ConfigError) as caught:
        settings.load(Sample, path)
    assert "did you mean" not in caught.value.message


@pytest.mark.parametrize(
    ("flags", "environment", "source"),
    [({"learning_rate": -1}, {}, "flag"), ({}, {"CONSCIENCE_LEARNING_RATE": "x"}, "environment")],
)
def test_a_value_out_of_range_names_key_and_source(
    flags: dict[str, object], environment: dict[str, str], source: str
) -> None:
    with pytest.raises(ConfigError, match=rf"'learning_rate' \({source}\)"):
        settings.load(Sample, None, flags=flags, environment=environment)


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_what_is_not_a_json_object_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"c\.json"):
        settings.load(Sample, path)


@pytest.mark.skipif(os.name == "nt", reason="permission bits are POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_open_to_others_is_refused_with_the_command_to_close_it(
    tmp_path: Path, mode: int
) -> None:
    path = write(tmp_path / "c.json", {}, mode)
    with pytest.raises(PermissionsError) as caught:
        settings.load(Sample, path)
    assert caught.value.hint == f"Run: chmod 600 {path}"


def test_what_is_saved_is_read_back_with_every_key(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    settings.save(Sample(name="ñ"), path)
    assert settings.load(Sample, path)[0] == Sample(name="ñ")
    assert set(json.loads(path.read_text(encoding="utf-8"))) == set(Sample.model_fields)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Sample().name = "x"  # type: ignore[misc]


class Inner(BaseModel):
    """A part of settings with keys of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mode: str = "auto"
    bridges: tuple[str, ...] = ()
    start_s: float = Field(default=1.0, gt=0)


class Nested(Settings):
    """Settings with such a part."""

    tor: Inner = Inner()


def test_a_part_is_merged_key_by_key(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"tor": {"mode": "own", "start_s": 2}})
    environment = {"CONSCIENCE_TOR": '{"start_s": 3}'}
    loaded, sources = settings.load(
        Nested, path, environment=environment, flags={"tor": {"bridges": ["b"]}}
    )
    assert loaded.tor == Inner(mode="own", start_s=3, bridges=("b",))
    assert sources == {"tor": "flag"}
    assert settings.load(Nested, path)[1] == {"tor": "file"}


def test_an_unknown_key_of_a_part_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"tor": {"brigdes": []}})
    with pytest.raises(ConfigError, match=r"'tor\.brigdes' in .*c\.json.*'tor\.bridges'"):
        settings.load(Nested, path)


@pytest.mark.parametrize("value", [{"start_s": 0}, {"start_s": "x"}, "own", 3])
def test_a_wrong_value_in_a_part_names_it_and_its_source(value: object) -> None:
    with pytest.raises(ConfigError, match=r"'tor(\.start_s)?' \(flag\)"):
        settings.load(Nested, None, flags={"tor": value})


def test_a_part_is_saved_with_every_key(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    settings.save(Nested(tor=Inner(mode="own")), path)
    assert settings.load(Nested, path)[0] == Nested(tor=Inner(mode="own"))
    assert set(json.loads(path.read_text(encoding="utf-8"))["tor"]) == set(Inner.model_fields)
