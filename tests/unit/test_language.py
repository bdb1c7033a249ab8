"""The language chosen: by us, by the system, or English; looked up when a text is needed."""

from __future__ import annotations

import gettext

import pytest

from federation.errors import UsageError
from federation.language import CATALOGUES, DOMAIN, _, language, languages, set_language


def known_pair() -> tuple[str, str]:
    """Return one English text of the catalogue that reads differently in Spanish."""
    catalogue = gettext.translation(DOMAIN, CATALOGUES, languages=["es"])
    texts = catalogue._catalog  # type: ignore[attr-defined]  # gettext lists its texts nowhere else
    return next((en, es) for en, es in texts.items() if en and isinstance(en, str) and en != es)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "es_ES.UTF-8"}, "es"),
        ({"LANG": "en_GB.UTF-8", "LC_ALL": "es_MX.UTF-8"}, "es"),
        ({"LANG": "es_ES.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ({"LANG": "es_ES.UTF-8", "LC_ALL": ""}, "es"),
        ({"LANG": "es_ES.UTF-8", "CONSCIENCE_LANG": "en"}, "en"),
        ({"LANG": "en_GB.UTF-8", "CONSCIENCE_LANG": "es-AR"}, "es"),
        ({"LANG": "fr_FR.UTF-8"}, "en"),
    ],
)
def test_ours_before_the_systems_before_english(environment: dict[str, str], expected: str) -> None:
    assert language(environment) == expected


def test_english_and_spanish_are_there() -> None:
    assert languages()[0] == "en"
    assert "es" in languages()


def test_the_text_follows_the_language_at_the_moment_of_the_call() -> None:
    english, spanish = known_pair()
    set_language("es")
    assert _(english) == spanish
    set_language("en")
    assert _(english) == english


def test_no_choice_follows_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "es_ES.UTF-8")
    set_language("en")
    assert language() == "en"
    set_language(None)
    assert language() == "es"


def test_a_text_without_translation_stays_english() -> None:
    set_language("es")
    assert _("no such text, ever") == "no such text, ever"


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'tlh'") as caught:
        set_language("tlh")
    assert "en, es" in caught.value.hint
