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

    A value that is a model itself (`tor`) is merged key by key; its source is the last one that
    named any of its keys.

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
        _require_known(layer, kind, where=str(path) if source == "file" else source)
        values = _merged(values, layer, kind)
        sources |= dict.fromkeys(layer, source)
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


def unknown_key(key: str, kind: type[BaseModel], *, where: str, inside: str = "") -> ConfigError:
    """Name an unknown key and the nearest known one.

    Args:
        key: as it was written.
        kind: the model that does not have it.
        where: a file or another source, for people.
        inside: dotted keys of the models around `kind`, with a dot at the end.
    """
    near = difflib.get_close_matches(key, list(kind.model_fields), n=1, cutoff=0.5)
    guess = f", did you mean '{inside}{near[0]}'?" if near else ""
    return ConfigError(f"unknown key '{inside}{key}' in {where}{guess}")


def _require_known(
    layer: Mapping[str, Any], kind: type[BaseModel], *, where: str, inside: str = ""
) -> None:
    for key, value in layer.items():
        if key not in kind.model_fields:
            raise unknown_key(key, kind, where=where, inside=inside)
        inner = _model_of(kind, key)
        if inner is not None and isinstance(value, Mapping):
            _require_known(value, inner, where=where, inside=f"{inside}{key}.")


def _merged(
    below: Mapping[str, Any], above: Mapping[str, Any], kind: type[BaseModel]
) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner, held = _model_of(kind, key), merged.get(key)
        if inner is not None and isinstance(held, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(held, value, inner)
        else:
            merged[key] = value
    return merged


def _model_of(kind: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model that the values of `key` are, None for plain values."""
    annotation = kind.model_fields[key].annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


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
