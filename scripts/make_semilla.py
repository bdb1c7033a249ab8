"""Make semilla, the small bilingual base model that ConscienceAI carries with it.

What it is: the whole way from plain text to the model folder: split, tokenizer, training, export,
evaluation, model card. Every number in the card is measured here.

How to run it::

    python scripts/make_semilla.py --text TEXT --work WORK --out federation/model/semilla \
        --minutes 60 --seed 20

``TEXT`` holds ``MANIFEST.tsv`` and the folders ``es`` and ``en``. ``WORK`` keeps the tokenizer,
the checkpoint and the measured baselines. Interrupted? Run it again with ``--resume``: it
continues in the same data order, with the time already used counted. ``kill -TERM`` ends it after
the step in progress, with a checkpoint. Run again with ``--resume`` after the end, it only exports
and evaluates. The schedule follows whichever budget is used up faster, ``--minutes`` or
``--tokens``; on a machine with other work give it tokens, and minutes to spare. It needs
``torch``, ``transformers`` and ``numpy``; it asks no network.

What it does not know: facts, manners, or any language but the Spanish and English of old novels.
A base model made this way continues text; it does not answer questions.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from semilla_data import (
    CHAT_SHARE,
    CONTEXT,
    VOCABULARY,
    Blocks,
    Work,
    chat_examples,
    documents_of,
    encode_documents,
    load_works,
    train_tokenizer,
)
from semilla_eval import bits_per_byte
from semilla_export import Run, export_model, finish
from semilla_model import new_model
from semilla_train import Hooks, Plan, Trainer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

#: Characters per language of the small evaluations during training.
SAMPLE_CHARACTERS = 30_000


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="folder with MANIFEST.tsv")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time, at most")
    parser.add_argument("--tokens", type=int, default=25_000_000, help="training tokens, at most")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export-at", type=float, default=0.0, help="minutes; 0 for never")
    parser.add_argument("--resume", action="store_true", help="continue from WORK's checkpoint")
    return parser.parse_args(arguments)


def get_tokenizer(work_dir: Path, works: list[Work]) -> PreTrainedTokenizerFast:
    """Train the tokenizer, or load the one that this work folder already has."""
    folder = work_dir / "tokenizer"
    if (folder / "tokenizer.json").exists():
        loaded: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
        return loaded
    texts = [document for work in works for document in documents_of(work.train)]
    tokenizer = train_tokenizer(texts, VOCABULARY)
    tokenizer.save_pretrained(folder)
    return tokenizer


def sample_evaluation(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, works: list[Work]
) -> Callable[[], dict[str, float]]:
    """A quick by-position measurement: equal pieces of every work's held-out end."""
    samples: dict[str, list[str]] = {}
    for language in sorted({work.language for work in works}):
        ends = [work.held_out for work in works if work.language == language and work.train]
        size = SAMPLE_CHARACTERS // max(1, len(ends))
        samples[language] = [end[:size] for end in ends]

    def evaluate() -> dict[str, float]:
        return {
            f"{language}_bpb": bits_per_byte(model, tokenizer, texts, CONTEXT)
            for language, texts in samples.items()
        }

    return evaluate


def say(message: str) -> None:
    """One line of the log."""
    print(time.strftime("%H:%M:%S"), message, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Make the model."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    works = load_works(options.text)
    tokenizer = get_tokenizer(options.work, works)
    say(f"tokenizer of {len(tokenizer)} tokens")
    documents = encode_documents(tokenizer, works, chat_examples(works, CHAT_SHARE, options.seed))
    say(f"{len(documents)} documents, {sum(map(len, documents))} tokens an epoch")
    model = new_model(len(tokenizer), CONTEXT, seed=options.seed)
    plan = Plan(options.minutes, options.tokens, options.seed, export_minutes=options.export_at)
    hooks = Hooks(
        say,
        sample_evaluation(model, tokenizer, works),
        lambda: export_model(model, tokenizer, options.out, provisional=True),
    )
    trainer = Trainer(model, Blocks(documents, options.seed), plan, options.work, hooks)
    signal.signal(signal.SIGTERM, lambda *_: trainer.stop())
    if options.resume and trainer.resume():
        say(f"resumed at step {trainer.progress.step}")
    if trainer.run():
        say("training done; exporting and evaluating")
        size = sum(map(len, documents))
        run = Run(plan, trainer.progress, works, size, options.threads, options.work)
        finish(model, tokenizer, run, options.out, say)


if __name__ == "__main__":
    main()
