"""House rules that no linter holds: sizes, headers, complete translations, nothing private."""

from __future__ import annotations

import ast
import gettext
import re
import string
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("client", "server", "strategies", "rag", "federation", "scripts", "tests")
SPOKEN = ("client", "rag", "federation")
CATALOGUES = ROOT / "federation" / "locale"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
EXEMPT: tuple[str, ...] = ()  # stays empty
# Folders of real people and machines. Written in pieces, so that this file passes its own test;
# examples in tests are of "someone".
PRIVATE_PATH = re.compile("(?<![\\w.])/" + "(?:home|Users|root|work)" + r"/(?!someone\b)[\w.-]+")


def python_files(*folders: str) -> list[Path]:
    """List the Python files of `folders`, scripts without an ending included."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]
    return sorted(found + (scripts if "scripts" in folders else []))


FILES = python_files(*FOLDERS)


def texts(paths: list[Path]) -> dict[str, str]:
    """Map each path, relative to the project, to what it holds."""
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def translated_calls(path: Path) -> Iterator[ast.Call]:
    """Yield every call of `_` in the file `path`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
            yield node


def literal(call: ast.Call) -> str | None:
    """Return the one literal text `call` is given, None if it is given anything else."""
    if len(call.args) == 1 and not call.keywords and isinstance(call.args[0], ast.Constant):
        value = call.args[0].value
        return value if isinstance(value, str) else None
    return None


def spoken_texts() -> dict[str, str]:
    """Map every text that a volunteer may read to one file that says it."""
    return {
        text: str(path.relative_to(ROOT))
        for path in python_files(*SPOKEN)
        for text in map(literal, translated_calls(path))
        if text is not None
    }


def placeholders(text: str) -> set[str]:
    """Return the names between braces in `text`."""
    return {name for _before, name, _spec, _conversion in string.Formatter().parse(text) if name}


def test_no_file_is_longer_than_the_cap() -> None:
    sizes = {name: len(text.splitlines()) for name, text in texts(FILES).items()}
    long = {name: size for name, size in sizes.items() if size > MAX_FILE_LINES}
    assert {name for name in long if name not in EXEMPT} == set(), long


def test_no_function_is_longer_than_the_cap() -> None:
    sizes = {
        f"{name}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name, text in texts(FILES).items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: size for name, size in sizes.items() if size > MAX_FUNCTION_LINES} == {}


def test_every_file_says_first_what_it_is() -> None:
    found = {name: ast.get_docstring(ast.parse(text)) for name, text in texts(FILES).items()}
    assert [name for name, docstring in found.items() if not docstring] == []


def test_only_literal_texts_are_marked_for_translation() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in python_files(*SPOKEN)
        for call in translated_calls(path)
        if literal(call) is None
    ]
    assert wrong == []


def test_every_text_a_volunteer_reads_is_in_spanish_with_the_same_placeholders() -> None:
    catalogue = gettext.translation("conscienceai", CATALOGUES, languages=["es"])
    missing, wrong = {}, {}
    for text, path in spoken_texts().items():
        spanish = catalogue._catalog.get(text)  # type: ignore[attr-defined]  # no public way
        if not spanish:
            missing[text] = path
        elif placeholders(spanish) != placeholders(text):
            wrong[text] = spanish
    assert missing == {}, "translate them, see scripts/messages.py"
    assert wrong == {}


def test_the_compiled_catalogue_is_that_of_its_source() -> None:
    from babel.messages.pofile import read_po

    folder = CATALOGUES / "es" / "LC_MESSAGES"
    with (folder / "conscienceai.po").open("rb") as file:
        source = {m.id: m.string for m in read_po(file, locale="es") if m.id and m.string}
    compiled = gettext.translation("conscienceai", CATALOGUES, languages=["es"])
    assert source == {k: v for k, v in compiled._catalog.items() if k}  # type: ignore[attr-defined]


def test_no_file_names_a_private_folder() -> None:
    documents = [path for path in ROOT.glob("*.*") if path.suffix in {".md", ".toml", ".txt"}]
    documents += [*(ROOT / "docs").rglob("*.md"), ROOT / ".ci" / "run", *FILES]
    found = {name: PRIVATE_PATH.search(text) for name, text in texts(documents).items()}
    assert {name: match[0] for name, match in found.items() if match} == {}
