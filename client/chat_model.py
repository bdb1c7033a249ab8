"""The node's model in memory: loaded when it first has to write, its adapters exchanged on it.

A new adapter is set beside the old one on the same base and says a few words before anybody hears
it (`federation.model.canary`). If they are no words, the old one stays. An answer ends with the
adapter that it began with.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.adapters import KEPT_VERSIONS
from client.base import find_base, search_folder
from client.chat_adapter import Wanted, kept, load_verdicts, refusal, store_of, wanted
from client.config import NodeConfig, NodeHome, load_federation
from federation.adapter.format import AdapterSpec
from federation.errors import ConfigError, ConscienceError, ModelError
from federation.language import _
from federation.model import canary
from federation.model.choose import BaseChoice, choose_base
from federation.model.headers import parameters_of
from federation.model.voices import Voice, Voices
from rag.answer.generate import ModelWriter
from rag.answer.prompt import PromptBuilder, Request
from rag.answer.result import ModelName

if TYPE_CHECKING:
    from pathlib import Path

    from client.adapters import Global
    from federation.model.speak import Piece, Sampling

logger = logging.getLogger(__name__)

CANARY_QUESTIONS = (("es", "¿Qué es el agua?"), ("en", "What is water?"))


@dataclass(frozen=True)
class Bound:
    """A voice, and what it is called."""

    voice: Voice
    model: ModelName


class NodeModel:
    """Any thread may call.

    Args:
        home: the node's home.
        config: its settings.

    Raises:
        ModelError: this node has no model.
    """

    def __init__(self, home: NodeHome, config: NodeConfig) -> None:
        self._home, self._config = home, config
        self.choice = choose(home, config)
        self.name = self.choice.ref
        self.parameters = parameters_of(self.choice.path)
        self._lock = threading.Lock()  # of loading and exchanging
        self._pin = ""
        self._loaded: _Loaded | None = None
        self._expected: tuple[ModelName, str] | None = None
        self._writers: dict[bool, NodeWriter] = {}

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._loaded is not None

    @property
    def refused(self) -> str:
        """Why the newest adapter, or the one asked for, does not answer; "" if it does."""
        return self._loaded.refused if self._loaded is not None else self._expect()[1]

    def model(self, *, adapter: bool) -> ModelName:
        """What answers are written with now; before it is loaded, what they should be."""
        if not adapter:
            return self._named(None)
        return self._loaded.active.model if self._loaded is not None else self._expect()[0]

    def writer(self, *, adapter: bool = True) -> NodeWriter:
        """The model with its adapter, or without; the same one until `follow`."""
        if adapter not in self._writers:
            self._writers[adapter] = NodeWriter(self, adapter=adapter)
        return self._writers[adapter]

    def follow(self, pin: str = "") -> bool:
        """Take up what has changed on disk; a loaded model keeps its adapter if that is refused.

        Args:
            pin: sha256 of a kept version's manifest, "" for the newest.

        Returns:
            False if another thread loads or exchanges: to be asked again.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._pin, self._expected = pin, None
            if self._loaded is not None:
                self._loaded.exchange(self._wanted())
            self._writers = {}
        finally:
            self._lock.release()
        return True

    def sweep(self) -> None:
        """Take off the adapters that no answer is written with any more."""
        if self._loaded is not None:
            self._loaded.voices.sweep()

    def bind(self, *, adapter: bool) -> Bound:
        """Load the model if it is not yet, and say what writes now."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded.active if adapter else self._loaded.base

    @property
    def prompts(self) -> PromptBuilder:
        """Loads the model."""
        self.bind(adapter=False)
        assert self._loaded is not None  # noqa: S101 - `bind` loaded it
        return self._loaded.prompts

    def _load(self) -> _Loaded:
        from federation.model.load import load_base

        config = self._config
        base = load_base(self.choice, quantization=config.quantization, device=config.device)
        prompts = ModelWriter(base).prompts
        store = store_of(self._home)
        spec = store.spec if store is not None else None
        loaded = _Loaded(Voices(base), prompts, spec, self._named)
        loaded.begin(self._wanted())
        return loaded

    def _wanted(self) -> Wanted:
        store = store_of(self._home)
        return wanted(store, load_verdicts(self._home).of, self._pin)

    def _expect(self) -> tuple[ModelName, str]:
        if self._expected is None:
            found = self._wanted()
            first = found.adapters[0] if found.adapters else None
            self._expected = self._named(first), found.note
        return self._expected

    def _named(self, adapter: Global | None) -> ModelName:
        if adapter is None:
            return ModelName(self.choice.ref, "", self.choice.identity)
        return ModelName(self.choice.ref, f"global@v{adapter.version}", adapter.sha256)


class _Loaded:
    """A model in memory and the voice that answers; one thread at a time changes it."""

    def __init__(
        self,
        voices: Voices,
        prompts: PromptBuilder,
        spec: AdapterSpec | None,
        named: Callable[[Global | None], ModelName],
    ) -> None:
        self.prompts = prompts
        self.refused = ""
        self.voices, self._spec, self._named = voices, spec, named
        self.base = self.active = Bound(voices.base, named(None))
        self._base_stutters: bool | None = None

    def begin(self, wanted: Wanted) -> None:
        """Take the first adapter that speaks, else none."""
        self.refused = wanted.note
        for adapter in wanted.adapters:
            if self._take(adapter):
                return

    def exchange(self, wanted: Wanted) -> None:
        """Take the first adapter wanted, if it speaks; else go on with the one there is."""
        self.refused = wanted.note
        if wanted.adapters:
            self._take(wanted.adapters[0])
        else:
            self.active = self.base

    def _take(self, adapter: Global) -> bool:
        model = self._named(adapter)
        if model == self.active.model:
            return True
        try:
            bound = Bound(self._voice(adapter), model)
            fault = self._fault(bound.voice)
        except (ConscienceError, RuntimeError) as err:  # torch's own are RuntimeErrors
            fault = err.message if isinstance(err, ConscienceError) else type(err).__name__
        if fault:
            self.refused = refusal(adapter, fault)
            logger.warning("global v%d is not spoken with: %s", adapter.version, fault)
            return False
        logger.info("the chat writes with global v%d", adapter.version)
        self.active = bound
        return True

    def _voice(self, adapter: Global) -> Voice:
        assert self._spec is not None  # noqa: S101 - there are adapters only for who joined
        name = f"v{adapter.version}-{adapter.sha256[:16]}"
        return self.voices.add(name, self._spec, adapter.arrays, adapter.base)

    def _fault(self, voice: Voice) -> str:
        """What is wrong with its first words; a base that stutters itself is no measure."""
        fault = self._stutter(voice)
        if fault and self._base_stutters is None:
            self._base_stutters = bool(self._stutter(self.base.voice))
        return "" if self._base_stutters else fault

    def _stutter(self, voice: Voice) -> str:
        for language, text in CANARY_QUESTIONS:
            request = Request(text, language)
            prompt = self.prompts.build(request, max_new_tokens=canary.WORDS.max_new_tokens)
            said = list(voice.write(prompt.ids, canary.WORDS, lambda: False))
            if fault := canary.stutter(said):
                return fault
        return ""


class NodeWriter:
    """See `rag.answer.generate.Writer`; what it writes with is settled when it first writes.

    Args:
        of: the node's model.
        adapter: whether with its adapter.
    """

    def __init__(self, of: NodeModel, *, adapter: bool = True) -> None:
        self._of, self._adapter = of, adapter
        self.name, self.parameters = of.name, of.parameters
        self._bound: Bound | None = of.bind(adapter=adapter) if of.is_loaded else None

    @property
    def model(self) -> ModelName:
        """Settled as soon as `prompts` was asked for."""
        return self._bound.model if self._bound else self._of.model(adapter=self._adapter)

    @property
    def prompts(self) -> PromptBuilder:
        """Loads the model."""
        self.voice()
        return self._of.prompts

    def write(
        self, ids: Sequence[int], sampling: Sampling, is_stopped: Callable[[], bool]
    ) -> Iterator[Piece]:
        """Loads the model."""
        return self.voice().write(ids, sampling, is_stopped)

    def voice(self) -> Voice:
        """Loads the model."""
        if self._bound is None:
            self._bound = self._of.bind(adapter=self._adapter)
        return self._bound.voice


def choose(home: NodeHome, config: NodeConfig) -> BaseChoice:
    """The federation's base model, or the one that a lone node chooses.

    Raises:
        ModelError: there is none.
    """
    if home.federation.exists():
        joined = load_federation(home)
        return find_base(home, config, base_ref=joined.base_ref, base_hash=joined.base_hash)
    return choose_base(
        config.model,
        revision=config.revision,
        search=search_folder(home, config),
        try_load=lambda candidate: None if candidate.path is None else _look(candidate.path),
    )


def require_model(home: NodeHome, config: NodeConfig, base: str, adapter_sha256: str) -> None:
    """Refuse what this node could not write with.

    Args:
        home: the node's home.
        config: its settings.
        base: "" for the node's own.
        adapter_sha256: of a version's manifest, "" for the newest.

    Raises:
        ConfigError: another base model, or a version that is not kept here.
    """
    if base and base != (own := _own_base(home, config)):
        raise ConfigError(
            _("'{base}' is not this node's base model, which is '{own}'.").format(
                base=base, own=own
            ),
            hint=_("The node's settings choose it: `model` in node_config.json."),
        )
    if adapter_sha256 and kept(store_of(home), adapter_sha256) is None:
        raise ConfigError(
            _("No adapter {sha256} is kept here.").format(sha256=adapter_sha256[:12]),
            hint=_("Kept are the newest {count} versions.").format(count=KEPT_VERSIONS),
        )


def _own_base(home: NodeHome, config: NodeConfig) -> str:
    try:
        return choose(home, config).ref
    except ModelError:
        return ""


def _look(folder: Path) -> None:
    parameters_of(folder)
