"""Write the model folder, measure what was written, and describe it.

What it is: the last step of ``make_semilla.py``.

How to use it: ``export_model`` writes a loadable folder at any time; ``finish`` writes the final
one, reloads it from disk, measures it there, and writes ``evaluation.json`` and ``MODEL_CARD.md``.

What it does not know: how training went, beyond the numbers that it is given.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from semilla_card import write_card
from semilla_data import CHAT_SHARE, CONTEXT, DOCUMENT_CHARACTERS, POSITION_SHARE, Work
from semilla_eval import baselines, bits_per_byte, size_of
from semilla_train import Plan, Progress
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

Sets = dict[str, dict[str, list[str]]]
#: New tokens at most in the samples and in the end-of-message check.
NEW_TOKENS = 96
#: Chats in the end-of-message check, per language.
CHAT_CHECKS = 10


@dataclass(frozen=True)
class Run:
    """What the last step needs to know about a finished training run.

    Attributes:
        plan: The plan it followed.
        progress: Where it ended.
        works: The split works.
        epoch_tokens: Training tokens in one epoch, chats included.
        threads: Processor threads used.
        work_dir: Folder for the baselines, which are slow and need measuring only once.
    """

    plan: Plan
    progress: Progress
    works: list[Work]
    epoch_tokens: int
    threads: int
    work_dir: Path


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON with a line end."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def export_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, provisional: bool
) -> None:
    """Write weights, configuration and tokenizer.

    Args:
        model: Model in float32; it is not changed.
        tokenizer: Its tokenizer.
        out: Folder to write to.
        provisional: Whether to mark the export as unfinished in ``evaluation.json``.
    """
    out.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(model).to(torch.float16).eval()
    half.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # The name that both Transformers 4 and 5 know; version 5 writes one of its own.
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, config)
    for file in out.iterdir():
        # Weights are saved readable by their owner alone; package data must be readable by all.
        file.chmod(0o644)
    if provisional:
        write_json(out / "evaluation.json", {"provisional": True})


def load_exported(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load a written folder as anybody would, computing in float32."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return model.eval(), tokenizer


def held_out_sets(works: list[Work]) -> dict[str, Sets]:
    """Held-out texts by language and set: ends of training works, and works held out whole."""
    sets: dict[str, Sets] = {}
    for language in sorted({work.language for work in works}, reverse=True):
        own = [work for work in works if work.language == language]
        texts = {
            "position": [work.held_out for work in own if work.train],
            "works": [work.held_out for work in own if not work.train],
        }
        sets[language] = {"held_out": texts, "train": {"all": [w.train for w in own if w.train]}}
    return sets


def measure_baselines(sets: dict[str, Sets], cache: Path) -> dict[str, Any]:
    """Bits per byte of the baselines, measured once for a work folder."""
    if cache.exists():
        known: dict[str, Any] = json.loads(cache.read_text(encoding="utf-8"))
        return known
    results: dict[str, Any] = {}
    for language, parts in sets.items():
        others = [t for name, o in sets.items() if name != language for t in o["train"]["all"]]
        held_out = {name: texts for name, texts in parts["held_out"].items() if texts}
        results[language] = baselines(parts["train"]["all"], others, held_out)
    write_json(cache, results)
    return results


def measure_model(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    run: Run,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Bits per byte of the model, beside the baselines, for each language and set."""
    sets = held_out_sets(run.works)
    table = measure_baselines(sets, run.work_dir / "baselines.json")
    for language, rows in table.items():
        for name, row in rows.items():
            texts = sets[language]["held_out"][name]
            row["semilla"] = bits_per_byte(model, tokenizer, texts, CONTEXT)
            row["bytes"] = size_of(texts)
            say(f"{language} {name}: " + " ".join(f"{k} {v:.4g}" for k, v in row.items()))
    return table


def per_work(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, works: list[Work]
) -> dict[str, float]:
    """Bits per byte of each work held out whole."""
    return {
        work.name: bits_per_byte(model, tokenizer, [work.held_out], CONTEXT)
        for work in works
        if not work.train
    }


def float16_cost(
    model: LlamaForCausalLM,
    exported: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    works: list[Work],
) -> dict[str, float]:
    """Bits per byte before and after rounding the weights, on the same sample of held-out ends."""
    texts = [work.held_out[:2000] for work in works if work.train]
    return {
        "float32": bits_per_byte(model, tokenizer, texts, CONTEXT),
        "float16": bits_per_byte(exported, tokenizer, texts, CONTEXT),
    }


def generate(model: LlamaForCausalLM, ids: list[int], sample: bool) -> list[int]:
    """New token ids after a prompt; seeded if sampled."""
    torch.manual_seed(1)
    extra = {"temperature": 0.8, "top_p": 0.95, "top_k": 0} if sample else {}
    prompt = torch.tensor([ids])
    with torch.inference_mode():
        result = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW_TOKENS,
            do_sample=sample,
            **extra,
        )
    new: list[int] = result[0, len(ids) :].tolist()
    return new


def samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """One sampled continuation per language; the first drawn, not the best."""
    prompts = {
        "es": "Aquella mañana, al salir de la iglesia,",
        "en": "When she came down to breakfast the next morning,",
    }
    texts: dict[str, str] = {}
    for language, prompt in prompts.items():
        ids = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
        new = generate(model, ids, sample=True)
        texts[language] = prompt + tokenizer.decode(new, skip_special_tokens=True)
    return texts


def chat_check(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, works: list[Work]
) -> dict[str, dict[str, Any]]:
    """How often a reply ends by itself, on requests built from held-out text."""
    asks = {"es": "Continúa este texto: «{}»", "en": "Continue this text: “{}”"}
    results: dict[str, dict[str, Any]] = {}
    rng = random.Random(0)
    for language, ask in asks.items():
        paragraphs = [
            paragraph
            for work in works
            if work.language == language and not work.train
            for paragraph in work.held_out.split("\n\n")
            if 80 < len(paragraph) < 300
        ]
        ended = 0
        example: dict[str, str] = {}
        chosen = rng.sample(paragraphs, min(CHAT_CHECKS, len(paragraphs)))
        for paragraph in chosen:
            message = {"role": "user", "content": ask.format(paragraph)}
            text = tokenizer.apply_chat_template(
                [message], tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer.encode(text, add_special_tokens=False)
            new = generate(model, ids, sample=False)
            ended += tokenizer.eos_token_id in new
            reply = tokenizer.decode(new, skip_special_tokens=True)
            example = example or {"user": message["content"], "assistant": reply}
        results[language] = {"chats": len(chosen), "ended_with_eos": ended, "example": example}
    return results


def settings(run: Run) -> dict[str, Any]:
    """How the model was made, for ``evaluation.json`` and the card."""
    progress = run.progress
    return {
        **asdict(run.plan),
        "steps": progress.step,
        "tokens_seen": progress.tokens,
        "tokens_an_epoch": run.epoch_tokens,
        "minutes_used": progress.seconds / 60,
        "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
        "threads": run.threads,
        "torch": torch.__version__,
        "chat_share": CHAT_SHARE,
        "position_share": POSITION_SHARE,
        "document_characters": DOCUMENT_CHARACTERS,
        "new_tokens": NEW_TOKENS,
        "held_out_works": [work.name for work in run.works if not work.train],
    }


def finish(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    run: Run,
    out: Path,
    say: Callable[[str], None],
) -> None:
    """Export the final model, measure it as written, and describe it.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer.
        run: What is known about its training.
        out: Folder of the finished model.
        say: Where progress lines go.
    """
    export_model(model, tokenizer, out, provisional=False)
    exported, reloaded = load_exported(out)
    result = {
        "provisional": False,
        "unit": "bits per UTF-8 byte",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bits_per_byte": measure_model(exported, reloaded, run, say),
        "works_held_out_whole": per_work(exported, reloaded, run.works),
        "float16_cost": float16_cost(model.eval(), exported, reloaded, run.works),
        "chat": chat_check(exported, reloaded, run.works),
        "samples": samples(exported, reloaded),
        "training": settings(run),
        "curve": run.progress.curve,
    }
    write_json(out / "evaluation.json", result)
    write_card(out / "MODEL_CARD.md", result, run.works)
    say(f"wrote {out.name}: {sum(file.stat().st_size for file in out.iterdir())} bytes")
