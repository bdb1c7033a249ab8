"""`webchat_settings.json`: how answers are made; read again when it changes, refused if wrong."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from federation import durable
from federation.errors import ConfigError
from federation.language import _
from federation.model.sampling import Sampling
from federation.settings import Settings
from rag.answer.events import Question
from rag.chat.web.bodies import explain

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 100_000


class Params(Settings):
    """How a question is searched and answered; a request may give its own within these bounds.

    Attributes:
        rag_min_score: passages with less than this share of the best one's score are left out.
        rag_max_chars: of all passages together, at least one whole; 0 for no limit.
    """

    temperature: float = Field(default=0.3, ge=0, le=2)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: int = Field(default=40, ge=0, le=1000)
    repetition_penalty: float = Field(default=1.1, ge=1, le=2)
    max_new_tokens: int = Field(default=256, ge=1, le=2048)
    rag_top_k: int = Field(default=5, ge=1, le=20)
    rag_min_score: float = Field(default=0.0, ge=0, le=1)
    rag_max_chars: int = Field(default=0, ge=0, le=100_000)

    def question(self, text: str, **how: Any) -> Question:  # noqa: ANN401 - fields of Question
        """A question asked so.

        Args:
            text: of it.
            how: further fields of `Question`; `seed` is of the draws.
        """
        sampling = Sampling(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            seed=how.pop("seed", 0),
        )
        return Question(
            text,
            top_k=self.rag_top_k,
            max_chars=self.rag_max_chars,
            min_score=self.rag_min_score,
            sampling=sampling,
            **how,
        )


class ModelChoice(Settings):
    """Which model answers; "" is the node's own, with its newest adapter.

    Attributes:
        base: must be the node's own; what was tuned for another one is refused.
        adapter_sha256: a version that the node keeps, by the hash of its manifest.
    """

    base: str = Field(default="", max_length=300)
    adapter_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")


class Evidence(Settings):
    """Why an optimiser chose these values."""

    study: str = Field(max_length=200)
    verification_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    n: int = Field(ge=1)
    seeds: int = Field(ge=1)
    baseline: float
    candidate: float
    gain: float
    ci95: tuple[float, float]
    p95_latency_ms: float = Field(ge=0)


class ChatSettings(Settings):
    """The whole file; `previous` is enough for one step back."""

    version: Literal[1] = Field(default=1, alias="schema")
    updated_at: str = Field(default="", max_length=40)
    source: Literal["default", "manual", "auto_optimize"] = "default"
    params: Params = Field(default_factory=Params)
    model: ModelChoice = Field(default_factory=ModelChoice)
    evidence: Evidence | None = None
    previous: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _evidence_is_the_optimisers(self) -> Self:
        if (self.evidence is not None) != (self.source == "auto_optimize"):
            raise ValueError("'evidence' belongs to the source 'auto_optimize', and to no other")
        return self

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return self.model_dump(mode="json", by_alias=True)


class SettingsFile:
    """The settings in force: those of the file, as long as it is right.

    Args:
        path: of the file; it need not exist.
        check: raises a ConfigError if the node has no such model.
    """

    def __init__(
        self, path: Path, check: Callable[[ModelChoice], None] = lambda _choice: None
    ) -> None:
        self._path, self._check = path, check
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._held = ChatSettings()
        self._given: Mapping[str, Any] = {}
        self.problem = ""

    def current(self) -> ChatSettings:
        """Read the file if it has changed; a wrong one leaves the old values, and is named."""
        with self._lock:
            return self._current()

    def overview(self) -> dict[str, Any]:
        """The settings in force, where each parameter comes from, its bounds, what is wrong."""
        with self._lock:
            held = self._current()
            given = self._given.get("params", {})
            origin = {name: "file" if name in given else "default" for name in Params.model_fields}
            return {
                **held.to_json(),
                "origin": origin,
                "bounds": Params.model_json_schema()["properties"],
                "problem": self.problem,
            }

    def put(self, changes: Mapping[str, Any]) -> ChatSettings:
        """Change some values; the ones before are kept in `previous`.

        Args:
            changes: any of `params` and `model`, each in part; `source` and `evidence`.

        Raises:
            ConfigError: a key or a value is wrong; nothing is changed.
        """
        with self._lock:
            held = self._current().to_json()
            before = {name: held[name] for name in ("params", "model", "source", "updated_at")}
            merged: dict[str, Any] = {"source": "manual", **changes, "schema": 1}
            for part in ("params", "model"):
                given = changes.get(part, {})
                merged[part] = {**held[part], **given} if isinstance(given, Mapping) else given
            if unknown := set(changes) - {"params", "model", "source", "evidence"}:
                raise ConfigError(f"unknown field '{sorted(unknown)[0][:80]}'")
            return self._write({**merged, "updated_at": _now(), "previous": before})

    def roll_back(self) -> ChatSettings:
        """Go back to the values before the last change.

        Raises:
            ConfigError: there are none.
        """
        with self._lock:
            before = self._current().previous
            if before is None:
                raise ConfigError(_("There are no earlier settings."))
            params, model = before.get("params", {}), before.get("model", {})
            content = {"params": params, "model": model, "source": "manual"}
            return self._write({**content, "schema": 1, "updated_at": _now()})

    def _current(self) -> ChatSettings:
        try:
            facts = self._path.stat()
        except OSError:
            self._stamp, self._held, self._given, self.problem = None, ChatSettings(), {}, ""
            return self._held
        stamp = (facts.st_mtime_ns, facts.st_size)
        if stamp == self._stamp:
            return self._held
        self._stamp = stamp
        try:
            self._given, self._held, self.problem = *self._read(), ""
        except ConfigError as err:
            self.problem = err.message
            logger.warning("the chat's settings stay as they were: %s", err)
            return self._held
        try:
            self._check(self._held.model)
        except ConfigError as err:  # a version that is no longer kept costs no other value
            self.problem = err.message
            logger.warning("the chat's settings choose no model: %s", err)
            self._held = self._held.model_copy(update={"model": ModelChoice()})
        return self._held

    def _read(self) -> tuple[Mapping[str, Any], ChatSettings]:
        try:
            with self._path.open("rb") as file:
                body = file.read(MAX_FILE_BYTES + 1)
            content = json.loads(body)
        except (OSError, ValueError, RecursionError) as err:
            name = self._path.name
            raise ConfigError(_("{name} is not valid JSON").format(name=name)) from err
        if not isinstance(content, dict):
            raise ConfigError(_("{name} is not valid JSON").format(name=self._path.name))
        return content, _checked(content)

    def _write(self, content: Mapping[str, Any]) -> ChatSettings:
        new = _checked(content)
        self._check(new.model)
        text = json.dumps(new.to_json(), indent=2, ensure_ascii=False)
        durable.write_text(self._path, text + "\n")
        logger.info("the chat's settings were changed: source %s", new.source)
        return self._current()


def _checked(content: Mapping[str, Any]) -> ChatSettings:
    try:
        return ChatSettings.model_validate(content)
    except ValidationError as err:
        raise ConfigError(explain(err, ChatSettings)) from err


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
