"""One JSON file → one frozen pydantic model: default < file < environment < flag."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from federation import durable
from federation.errors import ConfigError, PermissionsError

PREFIX = "CONSCIENCE_"
S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of every settings model: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def load(
    kind: type[S],
    path: Path | None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> tuple[S, dict[str, str]]:
    """Read settings of `kind` and say where each value came from.

    Args:
        kind: the settings model.
        path: JSON file; None or a missing file means defaults only.
        environment: `CONSCIENCE_<KEY>` values; None reads nothing.
        flags: values given on the command line; entries that are None are ignored.

    Returns:
        The model, and key -> "default" | "file" | "environment" | "flag".

    Raises:
        ConfigError: unreadable JSON, an unknown key (the nearest known one is named),
            or a value out of range.
        PermissionsError: the file can be read by other users.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(kind.model_fields, "default")
    layers = (
        ("file", read_json(path) if path is not None and path.exists() else {}),
        ("environment", _from_environment(kind, environment or {})),
        ("flag", {k: v for k, v in (flags or {}).items() if v is not None}),
    )
    for source, layer in layers:
        for key, value in layer.items():
            if key not in kind.model_fields:
                raise unknown_key(key, kind, where=str(path) if source == "file" else source)
            values[key] = value
            sources[key] = source
    try:
        return kind.model_validate(values), sources
    except ValidationError as err:
        raise ConfigError(_explain(err, sources), hint="Correct the value and try again.") from err


def read_json(path: Path) -> dict[str, Any]:
    """Read a private JSON object.

    Raises:
        ConfigError: not a JSON object.
        PermissionsError: readable by group or others (POSIX only).
    """
    require_private(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as err:
        raise ConfigError(f"{path} is not valid JSON: {err}") from err
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold one JSON object")
    return content


def save(settings: Settings, path: Path) -> None:
    """Write every key with its value to `path`, mode 0600."""
    text = json.dumps(settings.model_dump(mode="json"), indent=2, ensure_ascii=False)
    durable.write_text(path, text + "\n")


def require_private(path: Path) -> None:
    """Refuse a file that group or others may read (POSIX only).

    Raises:
        PermissionsError: the mode is wider than 0600.
    """
    if os.name == "nt":
        return
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise PermissionsError(
            f"{path} is open to other users (mode {mode:o})", hint=f"Run: chmod 600 {path}"
        )


def unknown_key(key: str, kind: type[Settings], *, where: str) -> ConfigError:
    """Name an unknown key and the nearest known one."""
    near = difflib.get_close_matches(key, list(kind.model_fields), n=1, cutoff=0.5)
    guess = f", did you mean '{near[0]}'?" if near else ""
    return ConfigError(f"unknown key '{key}' in {where}{guess}")


def _from_environment(kind: type[Settings], environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in kind.model_fields:
        text = environment.get(PREFIX + key.upper())
        if text is None:
            continue
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:
            found[key] = text
    return found


def _explain(err: ValidationError, sources: Mapping[str, str]) -> str:
    parts = []
    for item in err.errors():
        name = ".".join(str(part) for part in item["loc"])
        source = sources.get(str(item["loc"][0]), "file") if item["loc"] else "file"
        parts.append(f"'{name}' ({source}): {item['msg']}")
    return "; ".join(parts)
