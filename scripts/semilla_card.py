"""The model card of semilla, written from measured numbers alone.

What it is: a template and the few lines that fill it from the dictionary that ``finish`` also
writes to ``evaluation.json``. No number in the card is typed by hand.

How to use it: ``semilla_export.finish`` calls ``write_card``.

What it does not know: whether the numbers are good.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semilla_data import Work

#: Names of the sets in the table of results.
SET_NAMES = {
    "position": "ends of training works (never trained on)",
    "works": "whole works never trained on",
}
LANGUAGE_NAMES = {"es": "Spanish", "en": "English"}

CARD = """---
language:
- es
- en
license: cc-by-4.0
library_name: transformers
pipeline_tag: text-generation
---

# semilla

semilla (“seed”) is the small base model that ConscienceAI carries with it, so that everything can
be tried, tested and taught without a download and without a graphics card. It is a causal language
model of the Llama architecture with {parameters} parameters, a byte-level tokenizer of its own with
8,192 tokens and a context of 1,024 tokens, trained from nothing on old novels and stories in
Spanish and English.

## What it is for, and what not

- For: a starting point for federated fine-tuning, for tests and demonstrations, for learning how
  such a model is made. It loads offline with plain `AutoModelForCausalLM` and `AutoTokenizer`.
- Not for: facts, advice, or talk with people. It knows grammar and the tone of its novels, nothing
  else. It has had no instruction tuning: the {chat_share} of chat examples in its training were cut
  mechanically from the same text (continue this text, repeat this sentence, name the last word) and
  teach the template and the end-of-message token only.
- The books are fiction of 1839–1927 and hold views on peoples, women and faiths that are not ours;
  the model can repeat them.

## How well it predicts text

Bits per UTF-8 byte, lower is better; every byte predicted, the first included. Windows of 1,024
tokens that overlap by half; weights as shipped (float16), computed in float32.

| held-out text | bytes | semilla | 5-gram | xz -9 |
|---|---|---|---|---|
{table}

- 5-gram: a byte-level model with Witten-Bell interpolation, trained on the same training text. Two
  were measured, one trained on the language at hand and one on both; the table has the better.
- xz -9: measured on the held-out text alone and as the growth of the compressed training text of
  that language when the held-out text follows it; the table has the better. `evaluation.json` has
  all forms.
- Rounding the weights to float16 took the same sample from {float32:.5f} to {float16:.5f} bits per
  byte.

The whole works held out, one by one:

| work | bits per byte |
|---|---|
{works}

Asked in the chat template to continue paragraphs it never saw, greedily and in at most
{new_tokens} tokens, it ended its reply with the end-of-message token in {ended} of {chats} cases.

## How it was trained

- Text: {train_works} works, {train_mb:.1f} MB. The last {position_share:.0%} of each, and
  {held_works} more works, were kept out of both the tokenizer and the model.
- {tokens_seen:,} tokens seen ({epochs:.2f} epochs of {tokens_an_epoch:,}) in {steps:,} steps of
  {batch_tokens:,}, {minutes_used:.0f} minutes, {tokens_per_second:,.0f} tokens a second on
  {threads} processor threads, without an accelerator, in float32, torch {torch}, seed {seed}.
- Muon (peak learning rate {muon_lr}) for the hidden matrices, AdamW ({adam_lr}) for the tied
  embedding and the norms; warm-up, plateau, straight decay to zero. Sequences of 256, then 512,
  then 1,024 tokens for the last eighth.
- Documents of about {document_characters:,} characters of consecutive paragraphs, each between
  `<|bos|>` and `<|eos|>`.

`scripts/make_semilla.py` makes it again from the same text. How many tokens fit in the minutes
depends on the machine, so the weights will differ from run to run.

By-position bits per byte on a small sample during training:

| minutes | tokens | es | en |
|---|---|---|---|
{curve}

## Chat format

`<|bos|>`, then for every message `<|role|>`, a newline and the content; a system or user message
ends with a newline, an assistant message with `<|eos|>`. The template marks assistant content and
its `<|eos|>` for `return_assistant_tokens_mask`.

## Samples

The first continuation drawn (temperature 0.8, top-p 0.95), not the best:

{samples}

## Licence and credits

The weights are shared under Creative Commons Attribution 4.0
(https://creativecommons.org/licenses/by/4.0/). All works are in the public domain. The Spanish
texts come from two collections published under the same licence, and their editors ask for this
credit:

- *Corpus de novelas de la Edad de Plata*, edited by José Calvo Tello. Würzburg: CLiGS, 2017.
  https://github.com/cligs/textbox/tree/master/spanish/novela-espanola
- *Corpus de Cuentos de la Edad de Plata*, edited by José Calvo Tello. Würzburg: CLiGS, 2018.
  https://github.com/cligs/textbox/tree/master/spanish/cuentos-espanoles

The English texts come from *100 English Novels*, version 1.4, Computational Stylistics Group
(https://github.com/computationalstylistics/100_english_novels). That repository states no licence;
nothing but the text of public-domain works was taken from it.

### Works

Held out whole: {held_list}.

Trained on:

{train_list}
"""


def result_table(result: dict[str, Any]) -> str:
    """Rows of the table of results."""
    rows: list[str] = []
    for language, sets in result["bits_per_byte"].items():
        for name, row in sets.items():
            label = f"{LANGUAGE_NAMES.get(language, language)}, {SET_NAMES[name]}"
            values = " | ".join(f"{row[key]:.3f}" for key in ("semilla", "ngram", "xz"))
            rows.append(f"| {label} | {row['bytes']:,} | {values} |")
    return "\n".join(rows)


def curve_table(curve: list[dict[str, float]]) -> str:
    """Rows of the table of small evaluations."""
    return "\n".join(
        f"| {point['minutes']:.0f} | {point['tokens']:,.0f} | "
        f"{point['es_bpb']:.3f} | {point['en_bpb']:.3f} |"
        for point in curve
    )


def fill(result: dict[str, Any], works: list[Work]) -> str:
    """Fill the template.

    Args:
        result: What ``evaluation.json`` holds.
        works: The split works, for sizes and credits.

    Returns:
        The card.
    """
    training, chat = result["training"], result["chat"].values()
    credits = {work.name: work.credit for work in works}
    trained = [work for work in works if work.train]
    values = {
        **training,
        **result["float16_cost"],
        "parameters": f"{result['parameters']:,}",
        "chat_share": f"{training['chat_share']:.0%}",
        "table": result_table(result),
        "works": "\n".join(
            f"| {credits[name]} | {value:.3f} |"
            for name, value in result["works_held_out_whole"].items()
        ),
        "ended": sum(item["ended_with_eos"] for item in chat),
        "chats": sum(item["chats"] for item in chat),
        "train_works": len(trained),
        "train_mb": sum(len(work.train.encode("utf-8")) for work in trained) / 1e6,
        "held_works": len(works) - len(trained),
        "epochs": training["tokens_seen"] / training["tokens_an_epoch"],
        "curve": curve_table(result["curve"]),
        "samples": "\n\n".join("> " + t.replace("\n", "\n> ") for t in result["samples"].values()),
        "held_list": "; ".join(credits[name] for name in training["held_out_works"]),
        "train_list": "\n".join(f"- {work.credit}" for work in trained),
    }
    return CARD.format(**values)


def write_card(path: Path, result: dict[str, Any], works: list[Work]) -> None:
    """Write the card next to the weights."""
    path.write_text(fill(result, works), encoding="utf-8")
