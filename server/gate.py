"""The gate's evidence: losses of an adapter on held-out documents that no node trains on.

The set is ours (es and en, shipped with the server) plus the operator's own files. What follows
from the losses is decided by `strategies.gate`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from federation import durable
from federation.adapter.format import AdapterSpec, Arrays
from federation.errors import ConfigError
from federation.model.documents import Document
from server.config import ServerConfig, ServerHome
from server.measured import MeasuredLosses, fingerprint

if TYPE_CHECKING:
    from federation.model.load import Loaded

BATCH_TOKENS = 2048
_FIELDS = frozenset({"id", "lang", "field", "text", "question", "answer"})


def load_documents(folder: Path) -> tuple[Document, ...]:
    """The packaged gate set, then every *.jsonl of `folder` (which may be missing), by name.

    Raises:
        ConfigError: a line is not a document; it is named.
    """
    packaged = resources.files("server") / "gate_set"
    found: list[Document] = []
    for name in sorted(item.name for item in packaged.iterdir() if item.name.endswith(".jsonl")):
        found += _parse((packaged / name).read_text(encoding="utf-8"), f"gate_set/{name}")
    if folder.is_dir():
        for path in sorted(folder.glob("*.jsonl")):
            found += _parse(path.read_text(encoding="utf-8"), str(path))
    return tuple(found)


def add_documents(source: Path, folder: Path) -> int:
    """Check a JSONL file and copy it into the operator's gate folder; returns its documents.

    Raises:
        ConfigError: it cannot be read, or a line is not a document.
    """
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"the gate data {source} cannot be read: {err}") from err
    count = sum(1 for _ in _parse(text, str(source)))
    durable.write_text(folder / f"{source.stem}.jsonl", text)
    return count


class GateRunner:
    """Measures adapters on one base model, loaded at first use and kept.

    Args:
        home: the server's home.
        config: its settings.
        spec: what adapters look like; its base hash must be the loaded model's.
    """

    def __init__(self, home: ServerHome, config: ServerConfig, spec: AdapterSpec) -> None:
        self._home = home
        self._config = config
        self._spec = spec
        self.documents = load_documents(home.gate)
        self._measured = MeasuredLosses(home.gate_losses)
        self._loaded: Loaded | None = None
        self._model: Any = None
        self._has_base = False

    @property
    def langs(self) -> tuple[str, ...]:
        """Language of each document."""
        return tuple(document.lang for document in self.documents)

    def losses(self, arrays: Arrays, base: Arrays | None = None) -> NDArray[np.float64]:
        """Summed loss and token count per document under `arrays`, measured once and kept.

        Args:
            arrays: the adapter.
            base: what is added to the base model beside it.

        Returns:
            (documents, 2) f64: nats and tokens, in the order of `documents`.

        Raises:
            BaseMismatchError: the base model at hand is not the federation's.
        """
        from federation.model import loss

        longest, quantization = self._config.gate_max_tokens, self._config.quantization
        settings = (self._spec.spec_hash, longest, quantization, metadata.version("torch"))
        everything = arrays | {f"base.{name}": value for name, value in (base or {}).items()}
        key = fingerprint(everything, self.documents, *settings)
        known = self._measured.get(key, len(self.documents))
        if known is not None:
            return known
        model, tokenizer = self._ready(arrays, base or {})
        losses = loss.document_losses(
            model,
            tokenizer,
            self.documents,
            max_tokens=longest,
            batch_tokens=BATCH_TOKENS,
        )
        self._measured.put(key, losses)
        return losses

    def _ready(self, arrays: Arrays, base: Arrays) -> tuple[Any, Any]:
        """The base with `arrays` on it; swapped in place while no base delta is in play."""
        from federation.model import adapted, choose

        if self._loaded is None:
            self._loaded = open_base_of(self._home, self._config)
            choose.require_identity(self._loaded.choice, self._spec.base_hash)
        if self._model is not None and not (base or self._has_base):
            adapted.replace(self._model, self._spec, arrays)
        else:
            self._has_base = bool(base)
            self._model = adapted.attach(
                self._loaded, self._spec, arrays, trainable=False, base=base
            )
        return self._model, self._loaded.tokenizer


def open_base_of(home: ServerHome, config: ServerConfig, *, allow_download: bool = False) -> Loaded:
    """Load the base model that the settings name, whatever folder this process works in."""
    from federation.model import load

    return load.open_base(
        config.model,
        search=home.models,
        revision=config.revision,
        quantization=config.quantization,
        allow_download=allow_download,
    )


def _parse(text: str, source: str) -> Iterator[Document]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            document = Document(**{k: str(v) for k, v in row.items() if k in _FIELDS})
        except (json.JSONDecodeError, AttributeError, TypeError) as err:
            raise ConfigError(f"{source}, line {number} is not a document: {err}") from err
        if not document.text and not (document.question and document.answer):
            raise ConfigError(f"{source}, line {number} has neither text nor question and answer")
        yield document
