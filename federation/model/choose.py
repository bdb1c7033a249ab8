"""Which base model to use, and why; a model's identity by hash. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from federation.errors import BaseMismatchError, ModelError
from federation.language import _

SEMILLA = Path(__file__).parent / "semilla"
SEMILLA_REF = "semilla"
LOCAL_FINE_TUNES = ("finetune_es_pdf_lm_full", "finetune_es_pdf_lm")
SMALL_HUB_MODEL = "distilgpt2"

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
TOKENIZER_EXTRAS = (
    "added_tokens.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
FAST_TOKENIZER = "tokenizer.json"
SLOW_TOKENIZERS = ("merges.txt", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class Candidate:
    """A model that may be tried.

    Attributes:
        ref: a person's name for it.
        path: its folder; None while a hub model has not been looked up.
        revision: hub commit, branch or tag; None for local folders.
    """

    ref: str
    path: Path | None
    revision: str | None = None


@dataclass(frozen=True)
class BaseChoice:
    """The model that was chosen.

    Attributes:
        revision: hub commit; None for local folders.
        identity: see `identity`.
        reasons: one sentence for each candidate that was passed over, then one for this one.
    """

    ref: str
    path: Path
    revision: str | None
    identity: str
    reasons: tuple[str, ...] = ()


def candidates(model: str, search: Path, *, revision: str | None = None) -> list[Candidate]:
    """Models in the order they are to be tried.

    Args:
        model: the configured one: a folder (absolute, or below `search`), a hub id, "semilla",
            or "" for none.
        search: folder where local fine-tunes lie.
        revision: hub revision of `model`.
    """
    found = [_configured(model, search, revision)] if model else []
    found += [Candidate(name, search / name) for name in LOCAL_FINE_TUNES]
    found += [Candidate(SMALL_HUB_MODEL, None), Candidate(SEMILLA_REF, SEMILLA)]
    first: dict[str, Candidate] = {}
    for candidate in found:
        first.setdefault(candidate.ref, candidate)
    return list(first.values())


def choose_base(
    model: str,
    *,
    revision: str | None = None,
    search: Path,
    try_load: Callable[[Candidate], None],
    allow_download: bool = False,
) -> BaseChoice:
    """Take the first candidate that exists and loads.

    Args:
        model: see `candidates`.
        revision: see `candidates`.
        search: see `candidates`.
        try_load: called with a candidate whose folder is known; raises ModelError if it does
            not load.
        allow_download: whether hub models may be fetched; else only the local cache is read.

    Raises:
        ModelError: none of them loads.
    """
    reasons: list[str] = []
    for candidate in candidates(model, search, revision=revision):
        try:
            found = locate(candidate, allow_download=allow_download)
            known = identity(folder_of(found))
            try_load(found)
        except ModelError as err:
            reasons.append(f"{candidate.ref}: {err.message}")
            continue
        reasons.append(_("{model}: chosen, it exists and loads").format(model=found.ref))
        return BaseChoice(found.ref, folder_of(found), found.revision, known, tuple(reasons))
    raise ModelError(
        _("no base model could be loaded ({reasons})").format(reasons="; ".join(reasons)),
        hint=_("Reinstall conscienceai: the embedded model should always load."),
    )


def locate(candidate: Candidate, *, allow_download: bool = False) -> Candidate:
    """Find the folder of a candidate, and the commit if it comes from the hub.

    Raises:
        ModelError: no such folder, not in the cache, or the download failed.
    """
    if candidate.path is not None:
        if not candidate.path.is_dir():
            raise ModelError(
                _("there is no folder {path}").format(path=candidate.path), hint=_at_hand()
            )
        return candidate
    folder = _hub_folder(candidate, allow_download=allow_download)
    return replace(candidate, path=folder, revision=folder.name)


def folder_of(candidate: Candidate) -> Path:
    """The folder of a located candidate.

    Raises:
        ModelError: it was not located yet.
    """
    if candidate.path is None:
        raise ModelError(_("{model} has not been located").format(model=candidate.ref))
    return candidate.path


def identity(folder: Path) -> str:
    """Sha256 of what decides a model's outputs: config, weights and tokenizer.

    Computed over the sorted pairs of file name and sha256, so the folder's name, a README, a
    generation config or leftover files of other formats make no difference.

    Raises:
        ModelError: no config, no safetensors weights, or no tokenizer.
    """
    lines = [f"{name}\0{_sha256(folder / name)}\n" for name in sorted(identity_files(folder))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def identity_files(folder: Path) -> list[str]:
    """Names of the files that are loaded from a model folder.

    Raises:
        ModelError: no config, no safetensors weights, or no tokenizer.
    """
    if not (folder / CONFIG).is_file():
        raise ModelError(_("{path} holds no config.json").format(path=folder))
    fast = [FAST_TOKENIZER] if (folder / FAST_TOKENIZER).is_file() else []
    tokenizer = fast or [name for name in SLOW_TOKENIZERS if (folder / name).is_file()]
    if not tokenizer:
        raise ModelError(_("{path} holds no tokenizer").format(path=folder))
    extras = [name for name in TOKENIZER_EXTRAS if (folder / name).is_file()]
    return [CONFIG, *_weight_files(folder), *tokenizer, *extras]


def require_identity(choice: BaseChoice, expected: str) -> None:
    """Refuse a base model that is not the federation's.

    Raises:
        BaseMismatchError: the identities differ.
    """
    if choice.identity != expected:
        raise BaseMismatchError(
            _("the base model {model} ({ours}) is not the federation's ({theirs})").format(
                model=choice.ref, ours=choice.identity[:12], theirs=expected[:12]
            ),
            hint=_("Set `model` (and `revision`) to what the invitation names."),
        )


def public_name(choice: BaseChoice) -> str:
    """A name for the model that may leave this machine: never a path of it."""
    if choice.revision is not None:
        return choice.ref
    name = re.sub(r"[^\w.-]+", "-", choice.path.resolve().name, flags=re.ASCII).strip(".-_")
    return name or "model"


def _configured(model: str, search: Path, revision: str | None) -> Candidate:
    if model == SEMILLA_REF:
        return Candidate(SEMILLA_REF, SEMILLA)
    for folder in (search / Path(model).expanduser(), Path(model).expanduser()):
        if folder.is_dir():
            return Candidate(model, folder)
    if HUB_ID.fullmatch(model) and not model.startswith("."):
        return Candidate(model, None, revision)
    return Candidate(model, Path(model).expanduser())


def _weight_files(folder: Path) -> list[str]:
    """Weights in the order transformers looks for them: one file, else an index and its shards."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            shards = json.loads((folder / INDEX).read_bytes())["weight_map"].values()
            names = sorted({str(name) for name in shards})
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise ModelError(_("{path} is not readable").format(path=folder / INDEX)) from err
        missing = [name for name in names if not _is_plain_file(folder, name)]
        if missing or not names:
            raise ModelError(_("weights are missing: {files}").format(files=", ".join(missing)))
        return [INDEX, *names]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise ModelError(
            _("{path} holds only pickled weights, which could run code").format(path=folder),
            hint=_("Convert the model to safetensors."),
        )
    raise ModelError(_("{path} holds no safetensors weights").format(path=folder))


def _is_plain_file(folder: Path, name: str) -> bool:
    return Path(name).name == name and (folder / name).is_file()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hub_folder(candidate: Candidate, *, allow_download: bool) -> Path:
    import httpx
    from huggingface_hub import snapshot_download

    wanted = [CONFIG, "generation_config.json", FAST_TOKENIZER, *SLOW_TOKENIZERS]
    try:
        folder = snapshot_download(
            candidate.ref,
            revision=candidate.revision,
            local_files_only=not allow_download,
            allow_patterns=[*wanted, *TOKENIZER_EXTRAS, "*.safetensors", INDEX],
            ignore_patterns=["*/*"],
            tqdm_class=None,
        )
    except (OSError, ValueError, httpx.HTTPError) as err:
        if allow_download:
            text = _("{model} could not be fetched from the hub ({why})")
            why = str(err).partition("\n")[0]
            raise ModelError(text.format(model=candidate.ref, why=why)) from err
        text = _("{model} is not in the local cache, and downloading was not allowed")
        raise ModelError(text.format(model=candidate.ref), hint=_at_hand()) from err
    return Path(folder)


def _at_hand() -> str:
    return _("Name `semilla`, or the folder of a model that is on this machine.")
