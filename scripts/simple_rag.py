"""Look something up in the corpus: python scripts/simple_rag.py QUESTION [--k 3] [--json].

Passages alone, best first, with their scores, links and dates; nothing is written about them.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from client.config import find_home, load_config
from client.library import searching
from federation.errors import ConscienceError
from rag.answer.clean import one_line


def main(arguments: list[str] | None = None) -> int:
    """Search and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question")
    parser.add_argument("--k", type=int, default=3, help="passages")
    parser.add_argument("--home", type=Path, help="the node's home")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    home = find_home(given.home)
    with searching(home, load_config(home)[0], lambda note: print(note, file=sys.stderr)) as search:
        passages = search.find(given.question, given.k).passages if search else ()
    if given.json:
        print(json.dumps([asdict(passage) for passage in passages], ensure_ascii=False))
        return 0
    for n, passage in enumerate(passages, start=1):
        print(f"[{n}] {passage.score:.3f} {one_line(passage.title)} {one_line(passage.link)}")
        print(f"    {one_line(passage.text)[:300]}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConscienceError as fault:
        print(f"Error: {fault.message}", file=sys.stderr)
        sys.exit(fault.exit_code)
