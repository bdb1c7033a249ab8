"""The node's day: train from the current global adapter, package, put into the outbox.

Works without a terminal: the ClientApp calls it in live mode. Each step is durable before the next
begins, so a killed run continues where it stood; the heavy libraries load only when needed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client import keys, own
from client.base import find_base, search_folder
from client.config import (
    DEFAULT_DATA,
    Federation,
    NodeConfig,
    NodeHome,
    load_federation,
)
from client.dataset import Dataset, load_dataset
from client.noise import DELTA, Blur
from client.origin import fitting, held
from client.outbox import Entry, Outbox, open_outbox
from client.packaging import PackageFacts, load_feedback, make_package
from client.record import RunFolder, forget_old, run_folder, run_key
from client.training_plan import Progress, Session, Start, TrainingPlan
from federation import durable
from federation.adapter.format import initial_arrays
from federation.adapter.manifest import PackageManifest
from federation.adapter.package import open_package
from federation.adapter.tensors import save_tensors
from federation.errors import ConscienceError, FormatError, NoDataError
from federation.language import _

if TYPE_CHECKING:
    from federation.model.load import Loaded

logger = logging.getLogger(__name__)

Report = Callable[[Progress], None]
KEPT_RUNS = 30
LONE_RANK, LONE_ALPHA = 8, 16.0


@dataclass(frozen=True)
class Job:
    """What one run works with.

    Attributes:
        federation: None for a lone node, which trains for itself.
        day: local date, ISO.
    """

    home: NodeHome
    config: NodeConfig
    federation: Federation | None
    day: str
    report: Report


def train_cycle(
    home: NodeHome,
    config: NodeConfig,
    *,
    resume: bool = False,
    report: Report | None = None,
    today: Callable[[], date] = date.today,
) -> RunFolder:
    """Train today's adapter and record it; nothing is packaged.

    Args:
        home: the node's home; one that has not joined trains on its own base model.
        config: settings, with the command line's flags merged in.
        resume: continue a killed run of the same day, data and global adapter.
        report: told about each training step.
        today: local date.

    Raises:
        NoDataError: nothing to train on.
        TrainingError: no global adapter has arrived yet, or training failed.
        BaseMismatchError: the federation's base model is not at hand.
        ConscienceError: another process trains in this home.
    """
    federation = load_federation(home) if home.federation.exists() else None
    job = _job(home, config, federation, report, today)
    with _alone(home):
        data = load_data(home, config, job.day)
        loaded, start = _begin(job)
        folder = run_folder(home.runs, job.day, _key(job, data, start))
        if folder.step in ("packaged", "done"):
            folder = folder.another()
        _train(job, folder, data, (loaded, start), resume=resume)
        return folder


def contribute(
    home: NodeHome,
    config: NodeConfig,
    *,
    report: Report | None = None,
    today: Callable[[], date] = date.today,
) -> Entry | None:
    """Train, package, and put the package into the outbox: once a day, data and global adapter.

    Returns:
        The new package, or None if it was made before.

    Raises:
        NoDataError: nothing to contribute.
        TrainingError: no global adapter has arrived yet, or training failed.
        ConscienceError: this node has not joined, or another process trains in this home.
    """
    job = _job(home, config, load_federation(home), report, today)
    with _alone(home), open_outbox(home, config) as outbox:
        _expire_old(outbox, config)
        data = load_data(home, config, job.day)
        start = _current(job)
        folder = run_folder(home.runs, job.day, _key(job, data, start))
        if folder.step == "done":
            return None
        if not folder.is_trained():
            begin = (_load_base(job), start)
            _train(job, folder, data, begin, resume=folder.step == "training")
        if not folder.is_packaged():
            _package(job, folder, start, outbox)
        entry = _hand_in(folder, outbox)
        forget_old(home.runs, keep=KEPT_RUNS, but=[folder.path])
        return entry


def package_today(
    home: NodeHome, config: NodeConfig, *, today: Callable[[], date] = date.today
) -> Path:
    """Package what was trained today without putting it into the outbox.

    `contribute` later hands in exactly this package.

    Returns:
        The package's file; the outbox's copy if it was handed in before.

    Raises:
        ConscienceError: nothing was trained today from the present data and global adapter.
    """
    job = _job(home, config, load_federation(home), None, today)
    with _alone(home), open_outbox(home, config) as outbox:
        data = load_data(home, config, job.day)
        start = _current(job)
        folder = run_folder(home.runs, job.day, _key(job, data, start))
        state = folder.state()
        if state is not None and state.step == "done":
            return outbox.folder / f"{state.package}.zip"
        if not folder.is_trained():
            raise ConscienceError(
                _("Nothing was trained today from the present data and global adapter."),
                hint=_("Run: flower-client train"),
            )
        if not folder.is_packaged():
            _package(job, folder, start, outbox)
        return folder.package


def evaluate_current(
    home: NodeHome, config: NodeConfig, *, today: Callable[[], date] = date.today
) -> tuple[float | None, int]:
    """Measure the current global adapter on this node's held-out documents.

    Returns:
        Nats per token over all of them (None without any), and how many documents.

    Raises:
        NoDataError: this node has no data.
        TrainingError: no global adapter has arrived yet.
    """
    job = _job(home, config, load_federation(home), None, today)
    documents = load_data(home, config, job.day).heldout[: TrainingPlan().max_heldout]
    if not documents:
        return None, 0
    from federation.model import adapted  # seconds of loading, for nothing without documents
    from federation.model.loss import document_losses, mean_loss

    start = held(home, job.federation)
    loaded = _load_base(job)
    model = adapted.attach(loaded, start.spec, start.arrays, trainable=False, base=start.base)
    losses = document_losses(model, loaded.tokenizer, documents, max_tokens=config.max_seq_len)
    return mean_loss(losses), len(documents)


def load_data(home: NodeHome, config: NodeConfig, day: str) -> Dataset:
    """Read the configured files.

    Raises:
        NoDataError: none of the default files exists, or no row of any is usable.
        UsageError: a file that was asked for does not exist.
    """
    files = [home.root / Path(name).expanduser() for name in config.data]
    if config.data == (DEFAULT_DATA,):
        files = [path for path in files if path.is_file()]
    if not files:
        raise NoDataError(
            _("There is no data in {folder} yet.").format(folder=home.datasets),
            hint=_("Name files with --data, or set `data` in {path}").format(path=home.config),
        )
    return load_dataset(
        files, task=config.task, qa_subset_size=config.qa_subset_size, seed=config.seed, day=day
    )


def plan_of(config: NodeConfig) -> TrainingPlan:
    """The training plan that the settings ask for."""
    return TrainingPlan(
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        batch_size=config.batch_size,
        max_seq_len=config.max_seq_len,
        max_minutes=config.max_minutes,
        seed=config.seed,
        gradient_accumulation=config.gradient_accumulation,
        dropout=config.dropout,
        proximal_mu=config.sharing.proximal_mu,
    )


def _job(
    home: NodeHome,
    config: NodeConfig,
    federation: Federation | None,
    report: Report | None,
    today: Callable[[], date],
) -> Job:
    return Job(home, config, federation, today().isoformat(), report or (lambda _progress: None))


def _alone(home: NodeHome) -> Any:  # noqa: ANN401 - a context manager
    return durable.locked(
        home.train_lock, timeout_s=0.2, busy=_("Training is already running in this home.")
    )


def _key(job: Job, data: Dataset, start: Start) -> str:
    rank = (str(start.spec.rank),) if job.config.sharing.max_rank else ()
    return run_key(job.day, data.task, data.sha256, start.sha256, *rank)


def _current(job: Job) -> Start:
    """What this node trains from."""
    return fitting(held(job.home, job.federation), job.config.sharing)


def _load_base(job: Job) -> Loaded:
    from federation.model.load import load_base, open_base

    config = job.config
    if job.federation is None:
        return open_base(
            config.model,
            search=search_folder(job.home, config),
            revision=config.revision,
            quantization=config.quantization,
            device=config.device,
        )
    choice = find_base(
        job.home, config, base_ref=job.federation.base_ref, base_hash=job.federation.base_hash
    )
    return load_base(choice, quantization=config.quantization, device=config.device)


def _begin(job: Job) -> tuple[Loaded, Start]:
    """Base model and starting adapter: the global one, or a fresh one for a lone node."""
    if job.federation is not None:
        start = _current(job)
        return _load_base(job), start
    from federation.model import adapted

    loaded = _load_base(job)
    spec = adapted.spec_of(loaded, rank=LONE_RANK, alpha=LONE_ALPHA)
    return loaded, Start(spec, initial_arrays(spec, job.config.seed), 0, spec.spec_hash)


def _train(
    job: Job, folder: RunFolder, data: Dataset, begin: tuple[Loaded, Start], *, resume: bool
) -> None:
    from client.training import train

    loaded, start = begin
    durable.make_folder(folder.path)
    folder.advance("training")
    for note in data.notes:
        job.report(Progress(note=note))
    session = Session(work=folder.path, resume=resume, report=job.report)
    trained, record = train(loaded, start, data, plan_of(job.config), session)
    folder.save_adapter(trained, start.spec)
    folder.save_record(
        {
            "day": job.day,
            "base": loaded.choice.ref,
            "base_hash": loaded.choice.identity,
            "why_this_base": list(loaded.choice.reasons),
            "joined": job.federation is not None,
            "data": list(job.config.data),
            "data_sha256": data.sha256,
            "skipped_rows": len(data.skipped),
            "quantization": job.config.quantization,
            "training": record.to_json(),
        }
    )
    folder.advance("trained")


def _package(job: Job, folder: RunFolder, start: Start, outbox: Outbox) -> None:
    trained = folder.load_adapter()
    if trained is None:
        raise FormatError(_("The adapter in {folder} is damaged.").format(folder=folder.adapter))
    training, sharing = folder.record()["training"], job.config.sharing
    blur = Blur(sharing.clip_norm, sharing.noise_multiplier)
    if blur.noise_multiplier > 0:
        said = _("noise: one package tells no more than epsilon {epsilon} at delta {delta}")
        job.report(Progress(note=said.format(epsilon=f"{blur.epsilon:.3g}", delta=DELTA)))
    facts = PackageFacts(
        global_version=start.version,
        global_sha256=start.sha256,
        examples=int(training["examples"]),
        tokens=int(training["tokens"]),
        steps=int(training["steps"]),
        loss_before=float(training["loss_before"]),
        loss_after=float(training["loss_after"]),
        coding=job.config.coding,
        factors=start.instructions.sends,
        blur=blur,
    )
    residual = load_feedback(outbox.feedback_for_next(), start.spec, start.instructions)
    key = keys.load_or_create(job.home.keys).signing
    package, lost = make_package(trained, start.arrays, start.spec, facts, key, residual)
    # A package holds random digits: it is kept before it is handed in, so that a run killed in
    # between hands in this one and not a second.
    own.keep(job.home, trained, start.instructions)
    durable.write_bytes(folder.feedback, save_tensors(lost))
    durable.write_bytes(folder.package, package)
    folder.advance("packaged")


def _hand_in(folder: RunFolder, outbox: Outbox) -> Entry:
    data = folder.package.read_bytes()
    manifest = open_package(data, max_bytes=len(data)).manifest
    if not isinstance(manifest, PackageManifest):
        raise FormatError(_("{path} is not a node's package.").format(path=folder.package))
    entry = outbox.put(data, manifest, feedback=folder.feedback.read_bytes())
    folder.advance("done", package=entry.sha256)
    folder.package.unlink(missing_ok=True)
    folder.feedback.unlink(missing_ok=True)
    return entry


def _expire_old(outbox: Outbox, config: NodeConfig) -> None:
    oldest = time.time() - timedelta(days=config.max_package_age_days).total_seconds()
    for entry in outbox.expire(_("waited too long"), lambda entry: entry.created_at < oldest):
        logger.info("package %s waited too long and was given up", entry.sha256[:12])
