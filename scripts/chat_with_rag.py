"""Chat over the corpus in the terminal: python scripts/chat_with_rag.py [question].

A thin main over `flower-client chat`, with the options it has always had.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from client.cli import run
from client.config import HOME_VARIABLE
from federation.errors import UsageError
from federation.settings import PREFIX


def main(arguments: list[str] | None = None) -> int:
    """Translate the options and run the chat; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default="", help="answer this one and end")
    parser.add_argument("--rag-corpus", type=Path, help="JSON Lines, as ingest writes them")
    parser.add_argument("--model", help="base model: a folder, a hub id or semilla")
    parser.add_argument("--top-k", type=int, default=3, help="passages used")
    parser.add_argument("--max-chars", type=int, default=1200, help="of all passages together")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--out-dir", type=Path, default=Path("runs"), help="where the talk is kept")
    parser.add_argument("--home", type=Path, help="the node's home")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    if given.rag_corpus is not None:
        use_corpus(given.rag_corpus)
    if given.home is not None:
        os.environ[HOME_VARIABLE] = str(given.home)
    os.environ[f"{PREFIX}MEMORY_PATH"] = str((given.out_dir / "chat.sqlite").absolute())
    settings = {
        "top_k_sources": given.top_k,
        "max_chars": given.max_chars,
        "max_new_tokens": given.max_new_tokens,
        "model": given.model,
    }
    words = ["chat", *([given.question] if given.question else []), *(["--json"] * given.json)]
    for key, value in settings.items():
        if value is not None:
            words += ["--set", f"{key}={value}"]
    return run(words)


def use_corpus(path: Path) -> None:
    """Point the node's corpus elsewhere, for this run.

    Raises:
        UsageError: no such file.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    os.environ[f"{PREFIX}RAG_CORPUS_PATH"] = str(path.absolute())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as fault:
        print(f"Error: {fault.message}", file=sys.stderr)
        sys.exit(fault.exit_code)
