"""A training run's folder: how far it came, its adapter, and the record of what it did.

`ai_runs/<day>-<key>/` holds `state.json`, the trained adapter (a PEFT folder), and `record.json`;
`ai_runs/latest` names the newest. The key says what the run is made of (the day, the data and the
global adapter it starts from), so that the same contribution is never made twice and a killed one
is finished where it stood.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from federation import durable
from federation.adapter.format import AdapterSpec, Arrays, read_adapter_folder, write_adapter_folder
from federation.errors import ConscienceError, FormatError
from federation.language import _
from federation.redaction import redact
from federation.settings import Settings

Step = Literal["training", "trained", "packaged", "done"]
LATEST = "latest"
FORMAT = 1


class RunState(Settings):
    """`state.json`.

    Attributes:
        step: the last one completed; "training" means begun.
        package: sha256 of the package made of it.
    """

    format: int = FORMAT
    step: Step = "training"
    package: str = ""


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    path: Path

    @property
    def adapter(self) -> Path:
        """The trained adapter, a PEFT folder."""
        return self.path / "adapter"

    @property
    def package(self) -> Path:
        """The package until it is in the outbox."""
        return self.path / "package.zip"

    @property
    def feedback(self) -> Path:
        """What the package's coding lost, until it is in the outbox."""
        return self.path / "package.feedback"

    @property
    def step(self) -> Step | None:
        """The last step completed; None if the run never began."""
        state = self.state()
        return None if state is None else state.step

    def state(self) -> RunState | None:
        """How far the run came; None if it never began or the file is damaged."""
        try:
            state = RunState.model_validate_json((self.path / "state.json").read_bytes())
        except (OSError, ValidationError):
            return None
        return state if state.format <= FORMAT else None

    def advance(self, step: Step, *, package: str = "") -> None:
        """Note how far the run came."""
        state = RunState(step=step, package=package)
        durable.write_text(self.path / "state.json", state.model_dump_json() + "\n")

    def is_trained(self) -> bool:
        """Whether training ended and what it left is readable."""
        trained = self.step in ("trained", "packaged", "done")
        return trained and (self.path / "record.json").is_file() and self.load_adapter() is not None

    def is_packaged(self) -> bool:
        """Whether the package is made and waits to be handed in."""
        return self.step == "packaged" and self.package.is_file() and self.feedback.is_file()

    def another(self) -> RunFolder:
        """A folder for training once more what has been packaged already."""
        number = 2
        while (path := self.path.with_name(f"{self.path.name}-{number}")).exists():
            number += 1
        return RunFolder(path)

    def save_adapter(self, arrays: Arrays, spec: AdapterSpec) -> None:
        """Keep the trained adapter, replacing one of an earlier attempt."""
        if self.adapter.exists():
            shutil.rmtree(self.adapter)
        write_adapter_folder(self.adapter, arrays, spec, None)

    def load_adapter(self) -> Arrays | None:
        """The trained adapter; None if it is missing or damaged."""
        try:
            return read_adapter_folder(self.adapter)[0]
        except FormatError:
            return None

    def save_record(self, content: dict[str, Any]) -> None:
        """Write `record.json` and make this run the latest."""
        text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)
        durable.write_text(self.path / "record.json", redact(text) + "\n")
        durable.write_text(self.path.parent / LATEST, self.path.name + "\n")

    def record(self) -> dict[str, Any]:
        """Content of `record.json`.

        Raises:
            FormatError: missing or damaged.
        """
        path = self.path / "record.json"
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError) as err:
            raise FormatError(
                _("There is no readable record at {path}.").format(path=path)
            ) from err
        if not isinstance(content, dict):
            raise FormatError(_("There is no readable record at {path}.").format(path=path))
        return content


def run_key(*parts: str) -> str:
    """Hash of what a run is made of."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def run_folder(runs: Path, day: str, key: str) -> RunFolder:
    """The folder of the run with this key; it may not exist yet."""
    return RunFolder(runs / f"{day}-{key[:12]}")


def latest_run(runs: Path) -> RunFolder:
    """The newest run that has a record.

    Raises:
        ConscienceError: there is none.
    """
    pointer = runs / LATEST
    name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
    if not name or Path(name).name != name or not (runs / name).is_dir():
        raise ConscienceError(
            _("There is no training run in {folder}.").format(folder=runs),
            hint=_("Run: flower-client train"),
        )
    return RunFolder(runs / name)


def forget_old(runs: Path, *, keep: int, but: Sequence[Path] = ()) -> None:
    """Remove the oldest run folders (their names sort by day) beyond the newest `keep`."""
    if not runs.is_dir():
        return
    folders = sorted(path for path in runs.iterdir() if (path / "state.json").is_file())
    for path in folders[: max(0, len(folders) - keep)]:
        if path not in but:
            shutil.rmtree(path, ignore_errors=True)
