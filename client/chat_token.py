"""The chat's login token: kept between starts, so that other programs' settings stay valid."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from federation import durable, settings

TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")  # 256 random bits


def keep_token(path: Path, *, anew: bool = False) -> str:
    """Read the token at `path`, mode 0600; make one where there is none.

    What is no whole token is replaced: an empty or short one would let everybody in.

    Args:
        path: of the file.
        anew: make another in any case; the one before opens nothing from the next start on.

    Raises:
        PermissionsError: other users can read the file.
    """
    if not anew and path.exists():
        settings.require_private(path)
        held = path.read_text(encoding="ascii", errors="replace").strip()
        if TOKEN.fullmatch(held):
            return held
    token = secrets.token_urlsafe(32)
    durable.write_text(path, token + "\n")
    return token
