"""Training speed: ours beside a plain transformers.Trainer, same texts, same model, one run.

    nice -n 10 python scripts/bench_training.py --out bench.json

Two comparisons, each repeated in turns so that a busy machine slows both alike:

    LM   texts of the length of feed entries: ours packs them into full sequences, the baseline
         pads each batch to its longest text
    QA   question–answer pairs, loss on the answer: batches of similar length against random ones

Counted are tokens of text per second of training steps: no padding, no measuring before or after.
The baseline is what people usually write: Trainer, per-device batch 8, padding collator, same LoRA.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from client.dataset import Dataset
from client.training import Session, Start, TrainingPlan, train
from federation import durable
from federation.adapter.format import initial_arrays
from federation.model import adapted
from federation.model.choose import SEMILLA, BaseChoice, identity
from federation.model.documents import Document
from federation.model.encoding import encode
from federation.model.load import Loaded, load_base, quiet_transformers

ROOT = Path(__file__).resolve().parents[1]
STARTER = ROOT / "client" / "starter"
BATCH, MAX_TOKENS, RANK = 8, 512, 8
CLOCKS = {"wall": time.monotonic, "cpu": time.process_time}


@dataclass(frozen=True)
class Measured:
    """Tokens of text per second, one number per repeat."""

    name: str
    ours: list[float]
    baseline: list[float]

    @property
    def ratio(self) -> float:
        """Median of the ratios of neighbouring runs."""
        return statistics.median(a / b for a, b in zip(self.ours, self.baseline, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both comparisons and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--texts", type=int, default=160, help="texts per LM run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu on a busy machine")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        loaded = load_model(Path(scratch))
        bench = Bench(loaded, Path(scratch), options.repeats, CLOCKS[options.clock])
        texts, pairs = make_texts(options.texts, options.seed), read_pairs()
        results = [bench.compare("LM", texts), bench.compare("QA", pairs)]
    print_table(results, loaded)
    if options.out:
        content = {"clock": options.clock, "texts": len(texts), "pairs": len(pairs)}
        content |= as_json(results, loaded)
        durable.write_text(options.out, json.dumps(content, indent=2) + "\n")
    return 0


def load_model(scratch: Path) -> Loaded:
    """Take semilla, or a tiny random model where it is not there yet."""
    folder = SEMILLA
    if not (SEMILLA / "model.safetensors").is_file():
        sys.path.insert(0, str(ROOT))
        from tests.tiny_model import make_tiny_llama

        folder = make_tiny_llama(scratch / "tiny")
    return load_base(BaseChoice(folder.name, folder, None, identity(folder)), device="cpu")


def make_texts(count: int, seed: int) -> list[Document]:
    """Texts of 60 to 200 words, made of shuffled sentences of the starter notes."""
    rng = random.Random(seed)
    sentences = [
        sentence
        for path in sorted(STARTER.glob("notes.*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
        for sentence in re.split(r"(?<=[.!?])\s+", json.loads(line)["text"])
    ]
    texts = []
    for _index in range(count):
        words: list[str] = []
        target = rng.randint(60, 200)
        while len(words) < target:
            words += rng.choice(sentences).split()
        texts.append(Document(text=" ".join(words[:target])))
    return texts


def read_pairs() -> list[Document]:
    """The starter set's question–answer pairs."""
    rows = [
        json.loads(line)
        for path in sorted(STARTER.glob("qa.*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [Document(question=row["question"], answer=row["answer"]) for row in rows]


@dataclass(frozen=True)
class Bench:
    """Both ways of training, on one loaded model.

    Attributes:
        clock: seconds.
    """

    loaded: Loaded
    scratch: Path
    repeats: int
    clock: Callable[[], float]

    def compare(self, name: str, documents: list[Document]) -> Measured:
        """Run ours and the baseline in turns, after one warm-up of each."""
        tokens = sum(len(encode(self.loaded.tokenizer, each).ids) - 1 for each in documents)
        runs = {"ours": self.run_ours, "baseline": self.run_baseline}
        speeds: dict[str, list[float]] = {side: [] for side in runs}
        for repeat in range(self.repeats + 1):
            for side, run in runs.items():
                speed = tokens / run(documents)
                if repeat:
                    speeds[side].append(speed)
                    print(f"{name} {side:9}{speed:8.0f} tokens/s", file=sys.stderr)
        return Measured(name, speeds["ours"], speeds["baseline"])

    def run_ours(self, documents: list[Document]) -> float:
        """Seconds of one epoch through client.training, checkpoints included."""
        start = self._start()
        data = Dataset("bench", tuple(documents), tuple(documents[:1]))
        plan = TrainingPlan(batch_size=BATCH, max_seq_len=MAX_TOKENS)
        session = Session(self.scratch / "ours", clock=self.clock)
        _arrays, record = train(self.loaded, start, data, plan, session)
        return record.seconds

    def run_baseline(self, documents: list[Document]) -> float:
        """Seconds of one epoch through transformers.Trainer."""
        start = self._start()
        model = adapted.attach(self.loaded, start.spec, start.arrays, trainable=True)
        settings = transformers.TrainingArguments(
            output_dir=str(self.scratch / "baseline"),
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=2e-4,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer: Any = transformers.Trainer(
            model=model,
            args=settings,
            train_dataset=[labelled(self.loaded, each) for each in documents],
            data_collator=transformers.DataCollatorForSeq2Seq(self.loaded.tokenizer),
        )
        with quiet_transformers(), contextlib.redirect_stdout(io.StringIO()):
            began = self.clock()
            trainer.train()
            seconds = self.clock() - began
        adapted.detach(self.loaded)
        return seconds

    def _start(self) -> Start:
        spec = adapted.spec_of(self.loaded, rank=RANK, alpha=2.0 * RANK)
        return Start(spec, initial_arrays(spec, 0))


def labelled(loaded: Loaded, document: Document) -> dict[str, list[int]]:
    """One row for Trainer: the same ids, -100 where nothing is learnt."""
    encoded = encode(loaded.tokenizer, document)
    ids = encoded.ids.tolist()[:MAX_TOKENS]
    labels = [-100] * encoded.start + ids[encoded.start :]
    return {"input_ids": ids, "labels": labels[: len(ids)]}


def as_json(results: list[Measured], loaded: Loaded) -> dict[str, Any]:
    """Everything a reader needs to repeat it."""
    return {
        "model": loaded.choice.ref,
        "identity": loaded.choice.identity,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "batch": BATCH,
        "max_tokens": MAX_TOKENS,
        "rank": RANK,
        "results": [
            {"name": each.name, "ours": each.ours, "baseline": each.baseline, "ratio": each.ratio}
            for each in results
        ],
    }


def print_table(results: list[Measured], loaded: Loaded) -> None:
    """One line per comparison: medians over the repeats."""
    print(f"model {loaded.choice.ref}, {torch.get_num_threads()} threads, rank {RANK}")
    print(f"{'':4}{'ours tok/s':>12}{'Trainer tok/s':>15}{'ratio':>8}")
    for each in results:
        ours, baseline = statistics.median(each.ours), statistics.median(each.baseline)
        print(f"{each.name:4}{ours:12.0f}{baseline:15.0f}{each.ratio:8.2f}")


if __name__ == "__main__":
    raise SystemExit(main())
