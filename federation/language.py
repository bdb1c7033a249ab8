"""The language a volunteer is spoken to in: English in the source, others through gettext.

`_("…")` looks its text up when it is called, so a module imported before the language is known
still speaks the right one. The choice is kept in the environment: child processes inherit it.
Catalogues are made by `scripts/messages.py`.
"""

from __future__ import annotations

import gettext
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from federation.errors import UsageError

DOMAIN = "conscienceai"
CATALOGUES = Path(__file__).with_name("locale")
SOURCE_LANGUAGE = "en"
CHOICE = "CONSCIENCE_LANG"
SYSTEM = ("LC_ALL", "LC_MESSAGES", "LANG")


def _(message: str) -> str:
    """Translate `message`, a literal of the source, into the language in force."""
    return _catalogue(language()).gettext(message)


def language(environment: Mapping[str, str] | None = None) -> str:
    """Name the language in force: CONSCIENCE_LANG, else the system's, else English.

    Args:
        environment: read instead of this process's own.
    """
    variables = os.environ if environment is None else environment
    for name in (CHOICE, *SYSTEM):
        value = variables.get(name, "")
        if value:
            code = value.replace("-", "_").split("_")[0].split(".")[0].lower()
            return code if code in languages() else SOURCE_LANGUAGE
    return SOURCE_LANGUAGE


def set_language(code: str | None) -> None:
    """Speak `code` from now on, in this process and its children; None follows the system.

    Raises:
        UsageError: there is no catalogue for `code`.
    """
    if code is None:
        os.environ.pop(CHOICE, None)
        return
    if code not in languages():
        known = ", ".join(languages())
        raise UsageError(f"no translation for the language '{code}'", hint=f"Choose from: {known}.")
    os.environ[CHOICE] = code


@cache
def languages() -> tuple[str, ...]:
    """List the languages that can be spoken, English first."""
    found = sorted(path.parents[1].name for path in CATALOGUES.glob(f"*/LC_MESSAGES/{DOMAIN}.mo"))
    return (SOURCE_LANGUAGE, *(code for code in found if code != SOURCE_LANGUAGE))


@cache
def _catalogue(code: str) -> gettext.NullTranslations:
    return gettext.translation(DOMAIN, CATALOGUES, languages=[code], fallback=True)
