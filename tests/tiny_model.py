"""A tiny random Llama with a small BPE tokenizer in a folder: seconds to make, always the same."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SPECIALS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>")
VOCABULARY = 320
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SENTENCES = (
    "The moon turns around the earth in a month.",
    "La luna gira alrededor de la tierra en un mes.",
    "Tomatoes are watered in the morning; los tomates se riegan por la mañana.",
    "Why is the sky blue? ¿Por qué es azul el cielo?",
)


def make_tiny_llama(folder: Path, *, seed: int = 0, hidden: int = 32, layers: int = 2) -> Path:
    """Write a random Llama (2 layers of 32 by default) with a tokenizer; returns `folder`."""
    tokenizer = _write_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,  # wide, so that an adapter alone can move the logits far
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_tiny_gpt2(folder: Path, *, seed: int = 0) -> Path:
    """Write a random GPT-2 (Conv1D layers, tied head, no chat template); returns `folder`."""
    tokenizer = _write_tokenizer(folder, chat=False)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        initializer_range=0.3,
        bos_token_id=2,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write JSON Lines; returns `path`."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def qa_rows(count: int) -> list[dict[str, object]]:
    """Question–answer rows, all different, of varying length."""
    return [
        {
            "question": f"What is number {n}?" + " Please tell me." * (n % 4),
            "answer": f"It is {n}." + " More words." * (n % 3),
        }
        for n in range(count)
    ]


def text_rows(count: int) -> list[dict[str, object]]:
    """Text rows, all different, of varying length."""
    return [
        {"text": f"Note {n}. " + " ".join(SENTENCES[(n + k) % 4] for k in range(1 + n % 4))}
        for n in range(count)
    ]


def _write_tokenizer(folder: Path, *, chat: bool = True) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES * 4, trainer)
    if chat:
        inner.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", 1)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|eos|>",
    )
    if chat:
        tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer
