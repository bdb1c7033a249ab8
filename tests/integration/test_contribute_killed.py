"""`flower-client contribute` killed in the middle of training, and started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from client import cycle, keys, packaging
from client.adapters import AdapterStore
from client.config import NodeConfig, NodeHome, load_federation
from client.outbox import open_outbox
from federation import durable, settings
from tests.global_samples import Chain, make_federation
from tests.tiny_model import make_tiny_llama, text_rows, write_rows

CONFIG = NodeConfig(
    data=("datasets/notes.jsonl",),
    max_seq_len=64,
    epochs=12,
    batch_size=2,
    learning_rate=1e-3,
    device="cpu",
)
TODAY = date(2026, 1, 5)
CONTRIBUTE = """
import sys
from datetime import date
from pathlib import Path
from client import cycle
from client.config import NodeHome, load_config
home = NodeHome(Path(sys.argv[1]))
cycle.contribute(home, load_config(home)[0], today=lambda: date(2026, 1, 5))
"""
LIMIT_S = 240.0


def make_home(folder: Path) -> tuple[NodeHome, Chain]:
    """A node with a tiny base model, version 0 and some texts."""
    from federation.model.adapted import spec_of
    from federation.model.load import open_base

    home = NodeHome(folder)
    base = make_tiny_llama(home.models / "tiny")
    loaded = open_base(str(base), search=home.models, device="cpu")
    chain = Chain(spec_of(loaded, rank=2, alpha=4.0))
    chain.publish()
    node = keys.load_or_create(home.keys).node
    settings.save(make_federation(chain.spec, chain.key.public_hex, node=node), home.federation)
    AdapterStore(home, load_federation(home)).install(chain.packages[0])
    write_rows(durable.make_folder(home.datasets) / "notes.jsonl", text_rows(40))
    settings.save(CONFIG, home.config)
    return home, chain


def test_a_killed_contribution_goes_on_from_its_checkpoint_and_makes_one_package(
    tmp_path: Path,
) -> None:
    home, chain = make_home(tmp_path / "node")
    process = subprocess.Popen(
        [sys.executable, "-c", CONTRIBUTE, str(home.root)], env=dict(os.environ)
    )
    deadline = time.monotonic() + LIMIT_S
    while not list(home.runs.glob("*/checkpoints/step-*")):
        assert process.poll() is None, "it ended before its first checkpoint"
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    process.kill()
    process.wait()
    entry = cycle.contribute(home, CONFIG, today=lambda: TODAY)
    assert entry is not None
    (run,) = [path for path in home.runs.iterdir() if path.is_dir()]
    training = cycle.RunFolder(run).record()["training"]
    assert 0 < training["resumed_at"] < training["steps_planned"] == training["steps"]
    with open_outbox(home, CONFIG) as outbox:
        assert [known.sha256 for known in outbox.entries()] == [entry.sha256]
        packaging.verify(outbox.read(entry.sha256), chain.spec)
    assert cycle.contribute(home, CONFIG, today=lambda: TODAY) is None
    shutil.rmtree(run)
