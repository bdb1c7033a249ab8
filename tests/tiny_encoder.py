"""A tiny random BERT with a WordPiece tokenizer in a folder, as sentence encoders are shipped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from tests.corpora import TEXTS

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
DIM = 16
WORD = re.compile(r"\w+")


def make_tiny_encoder(
    folder: Path,
    *,
    seed: int = 0,
    pooling: str = "mean",
    prompts: dict[str, str] | None = None,
    max_length: int = 64,
) -> Path:
    """Write one of 2 layers of 16; returns `folder`."""
    tokenizer = _tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * DIM,
        max_position_embeddings=max_length,
        initializer_range=0.6,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "1_Pooling").mkdir()
    flags = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken", "max": "max_tokens"}
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {
            f"pooling_mode_{flag}": name == pooling for name, flag in flags.items()
        },
        "sentence_bert_config.json": {"max_seq_length": max_length},
        "config_sentence_transformers.json": {"prompts": prompts or {}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    # Not trained: a trainer breaks ties otherwise each time, and the vectors would change.
    words = sorted(
        {word for _l, title, text in TEXTS for word in WORD.findall(f"{title} {text}".lower())}
    )
    letters = sorted({letter for word in words for letter in word} | set("0123456789.,:;-_'¿?¡!()"))
    pieces = [*SPECIALS, *letters, *(f"##{letter}" for letter in letters), *words[::2]]
    vocabulary = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
