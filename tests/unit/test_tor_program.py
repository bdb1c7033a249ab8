"""Where a tor program is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.errors import TorError
from federation.tor.program import find_program, has_pow, install_hint, places_of


def program(path: Path, said: str = "") -> Path:
    """Something that can be run, and prints `said`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{said}'\n", encoding="utf-8")
    path.chmod(0o700)
    return path


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with one empty folder on it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_the_settings_come_first_then_the_path_then_the_usual_places(
    empty_path: Path, tmp_path: Path
) -> None:
    usual = program(tmp_path / "usual" / "tor")
    assert find_program("", [tmp_path / "none", usual]) == usual
    on_path = program(empty_path / "tor")
    assert find_program("", [usual]) == on_path
    named = program(tmp_path / "my tor" / "tor")
    assert find_program(str(named), [usual]) == named


def test_a_program_that_the_settings_name_is_never_replaced_by_another(
    empty_path: Path, tmp_path: Path
) -> None:
    program(empty_path / "tor")
    with pytest.raises(TorError, match="gone"):
        find_program(str(tmp_path / "gone"))
    (tmp_path / "text").write_text("no program", encoding="utf-8")
    with pytest.raises(TorError, match="text"):
        find_program(str(tmp_path / "text"))


def test_without_a_program_the_error_says_how_to_get_one(empty_path: Path) -> None:
    with pytest.raises(TorError) as missing:
        find_program("", [])
    assert "no tor program" in missing.value.message
    assert missing.value.hint


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "/usr/sbin/tor"),
        ("darwin", {}, "/opt/homebrew/bin/tor"),
        ("darwin", {}, "/Applications/Tor Browser.app/Contents/MacOS/Tor/tor"),
        (
            "darwin",
            {"HOME": "/Users/someone"},
            "/Users/someone/Applications/Tor Browser.app/Contents/MacOS/Tor/tor",
        ),
        (
            "win32",
            {"USERPROFILE": "C:/Users/someone"},
            "C:/Users/someone/Desktop/Tor Browser/Browser/TorBrowser/Tor/tor.exe",
        ),
        ("win32", {"PROGRAMFILES": "C:/Program Files"}, "C:/Program Files/Tor/tor.exe"),
    ],
)
def test_each_system_has_its_usual_places(
    platform: str, environment: dict[str, str], expected: str
) -> None:
    assert Path(expected) in places_of(platform, environment)


def test_unset_folders_of_windows_are_passed_over() -> None:
    assert places_of("win32", {}) == []


def test_each_system_has_its_own_way_to_install_it() -> None:
    assert len({install_hint(platform) for platform in ("linux", "darwin", "win32")}) == 3


def test_a_tor_says_whether_it_was_built_with_proof_of_work(tmp_path: Path) -> None:
    assert has_pow(program(tmp_path / "with", "relay: yes\npow: yes"))
    assert not has_pow(program(tmp_path / "without", "relay: yes\npow: no"))
    with pytest.raises(TorError, match="cannot be run"):
        has_pow(tmp_path / "gone")
