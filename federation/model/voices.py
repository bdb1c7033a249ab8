"""Several adapters on one base model in memory, and each answer written with its own.

Which adapter computes is a state of the whole model (PEFT switches its layers), so threads take
turns, a token at a time: those with one adapter at once, those with another one after them, in the
order in which they came. An adapter is taken off when nobody holds its voice any more.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from federation.adapter.format import AdapterSpec, Arrays
    from federation.model.documents import Document
    from federation.model.load import Loaded
    from federation.model.speak import Piece, Sampling

BASE = ""


class Turns:
    """Who may compute; any thread may call.

    Args:
        choose: told the name whose turn begins, while nobody computes.
    """

    def __init__(self, choose: Callable[[str], None]) -> None:
        self._choose = choose
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._name: str | None = None  # None: unknown, or somebody who must be alone
        self._busy = 0

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Compute as `name`, beside others of that name."""
        with self._changed:
            self._wait(lambda: self._name == name)
            try:
                if self._name != name:
                    self._choose(name)
                    self._name = name
                self._busy += 1
            finally:
                self._changed.notify_all()
        yield from self._until_done()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Change the model while nobody computes."""
        with self._changed:
            self._wait(lambda: False)
            self._name, self._busy = None, 1
        yield from self._until_done()

    def _wait(self, may_join: Callable[[], bool]) -> None:
        ticket = object()
        self._queue.append(ticket)
        try:
            self._changed.wait_for(
                lambda: self._queue[0] is ticket and (not self._busy or may_join())
            )
        finally:
            self._queue.remove(ticket)

    def _until_done(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()


class Voice:
    """The base model with one adapter, or with none; keeps that adapter on as long as it lives."""

    def __init__(self, loaded: Loaded, turns: Turns, name: str) -> None:
        self.name = name
        self._loaded, self._turns = loaded, turns

    def write(
        self, ids: Sequence[int], sampling: Sampling, is_stopped: Callable[[], bool]
    ) -> Iterator[Piece]:
        """See `federation.model.speak`."""
        from federation.model.speak import speak

        turn = self._turns.of
        yield from speak(
            self._loaded, ids, sampling, is_stopped=is_stopped, turn=lambda: turn(self.name)
        )

    def losses(self, documents: Sequence[Document], *, max_tokens: int) -> npt.NDArray[np.float64]:
        """See `federation.model.loss.document_losses`; others wait meanwhile."""
        from federation.model.loss import document_losses

        with self._turns.of(self.name):
            base, adapted = self._loaded.model, self._loaded.adapted
            model = base if adapted is None else adapted
            return document_losses(model, self._loaded.tokenizer, documents, max_tokens=max_tokens)


class Voices:
    """The voices of one loaded base model; it must be used through them alone from then on.

    Args:
        loaded: without an adapter.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._turns = Turns(self._use)
        self._lock = threading.RLock()
        self._added: dict[str, weakref.ref[Voice]] = {}
        self.base = Voice(loaded, self._turns, BASE)

    def add(
        self, name: str, spec: AdapterSpec, arrays: Arrays, base: Arrays | None = None
    ) -> Voice:
        """The voice of an adapter; set on now, unless it is on.

        Args:
            name: the same for the same weights, without a dot.
            spec: what the adapter must look like.
            arrays: see `federation.model.adapted.add`.
            base: likewise.

        Raises:
            ModelError: `spec` does not fit this model.
            FormatError: `arrays` are not those of `spec`.
        """
        from federation.model import adapted

        with self._lock:
            known = self._added.get(name)
            voice = known() if known is not None else None
            if voice is not None:
                return voice
            self.sweep()
            with self._turns.alone():
                adapted.add(self.loaded, name, spec, arrays, base)
            voice = Voice(self.loaded, self._turns, name)
            self._added[name] = weakref.ref(voice)
            return voice

    def sweep(self) -> None:
        """Take off the adapters whose voice nobody holds any more."""
        with self._lock:
            gone = [name for name, known in self._added.items() if known() is None]
            if not gone:
                return
            from federation.model import adapted

            with self._turns.alone():
                for name in gone:
                    adapted.remove(self.loaded, name)
                    del self._added[name]

    def names(self) -> list[str]:
        """Of the adapters that are on, the oldest first."""
        with self._lock:
            return list(self._added)

    def _use(self, name: str) -> None:
        if not self._added and name == BASE:
            return
        from federation.model import adapted

        adapted.use(self.loaded, name)
