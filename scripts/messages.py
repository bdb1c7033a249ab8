"""Makes the catalogues of what a volunteer reads: python scripts/messages.py [--check].

Collects every `_("…")` of client/, rag/ and federation/, updates federation/locale/es
(translations are kept, texts that are gone are dropped) and compiles it. With --check it changes
nothing and fails if a text lacks its translation. Translate in the .po file, then run this again.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parent.parent
SPOKEN = ("client", "rag", "federation")
LOCALE = ROOT / "federation" / "locale"
DOMAIN = "conscienceai"
TRANSLATIONS = ("es",)
HEADER = r"""msgid ""
msgstr ""
"Language: {code}\n"
"Content-Type: text/plain; charset=utf-8\n"

"""


def collect(root: Path) -> Catalog:
    """Gather every text marked for translation in the rooms that speak to a volunteer."""
    template = Catalog(project=DOMAIN, charset="utf-8")
    for room in SPOKEN:
        found = extract_from_dir(root / room, [("**.py", "python")], keywords={"_": None})
        for name, _line, message, _comments, _context in found:
            template.add(message, locations=[(f"{room}/{name}", 0)])
    return template


def update(code: str, template: Catalog) -> list[str]:
    """Bring the catalogue of language `code` up to date; returns the texts without translation."""
    folder = LOCALE / code / "LC_MESSAGES"
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"{DOMAIN}.po"
    catalogue = Catalog(locale=code, project=DOMAIN, charset="utf-8", fuzzy=False)
    if source.exists():
        catalogue = read_po(io.BytesIO(source.read_bytes()), locale=code)
    catalogue.update(template, no_fuzzy_matching=True, update_creation_date=False)
    catalogue.obsolete.clear()
    text, compiled = io.BytesIO(), io.BytesIO()
    write_po(text, catalogue, width=100, omit_header=True, sort_by_file=True, include_lineno=False)
    header = HEADER.format(code=code).encode()  # without dates, which would change at every run
    source.write_bytes(header + text.getvalue().lstrip())
    write_mo(compiled, read_po(io.BytesIO(source.read_bytes()), locale=code))
    source.with_suffix(".mo").write_bytes(compiled.getvalue())
    return missing(catalogue)


def missing(catalogue: Catalog) -> list[str]:
    """List the texts of `catalogue` that have no translation."""
    return [str(message.id) for message in catalogue if message.id and not message.string]


def main() -> int:
    """Update or check every catalogue; returns 1 where a text lacks its translation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    template = collect(ROOT)
    lacking = 0
    for code in TRANSLATIONS:
        if check:
            source = LOCALE / code / "LC_MESSAGES" / f"{DOMAIN}.po"
            catalogue = read_po(io.BytesIO(source.read_bytes()), locale=code)
            catalogue.update(template, no_fuzzy_matching=True)
            texts = missing(catalogue)
        else:
            texts = update(code, template)
        lacking += len(texts)
        for text in texts:
            print(f"{code}: no translation: {text!r}")
    print(f"{len(template)} texts, {lacking} without translation")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
