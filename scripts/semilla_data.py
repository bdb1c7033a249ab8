"""Text, splits, tokenizer and packed sequences for semilla.

What it is: everything between the plain text files and the token arrays that the trainer reads.
It loads the works listed in a ``MANIFEST.tsv``, keeps some whole works and the end of every other
work out of training, trains the byte-level BPE tokenizer on what is left, builds a few chat
examples mechanically from the training text, and packs documents into blocks of tokens.

How to use it: ``make_semilla.py`` calls it; nothing here runs by itself.

What it does not know: the model, the optimiser, and which text is good. It trusts the manifest.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>")
VOCABULARY = 8192
CONTEXT = 1024
#: Characters of consecutive paragraphs that make up one document: about the length of a chapter.
DOCUMENT_CHARACTERS = 12_000
POSITION_SHARE = 0.02
CHAT_SHARE = 0.04
#: Works never seen in training: per language one by an author seen elsewhere or a common register,
#: and one by an author (or of a kind) that occurs nowhere else in the training text.
HELD_OUT_WORKS = (
    "es/ne0161-picon-lazaro.txt",
    "es/ce0018-ibanez-luna-benamor.txt",
    "en/lee-penelope-brandling.txt",
    "en/ward-milly-and-olly.txt",
)
#: Words with the sign before them, short digit runs, punctuation with its line ends, white space.
PRETOKEN_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)\b|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: After a system or user message comes a newline; after every assistant message comes the EOS.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Work:
    """One literary work, cut into its training part and its held-out end.

    Attributes:
        name: File name relative to the text folder, such as ``es/ne0002-….txt``.
        language: ``es`` or ``en``.
        credit: Author, title and year for the model card.
        train: The training part; empty for a work held out whole.
        held_out: The last part of a training work, or all of a work held out whole.
    """

    name: str
    language: str
    credit: str
    train: str
    held_out: str


def split_by_position(text: str, share: float = POSITION_SHARE) -> tuple[str, str]:
    """Cut the last ``share`` of a text off at a paragraph boundary.

    Args:
        text: The whole work.
        share: Share of the characters to hold out, counted from the end.

    Returns:
        The training part and the held-out end.
    """
    wanted = int(len(text) * (1 - share))
    cut = text.rfind("\n\n", 0, wanted)
    cut = wanted if cut < 0 else cut + 2
    return text[:cut], text[cut:]


def load_works(text_dir: Path, held_out: tuple[str, ...] = HELD_OUT_WORKS) -> list[Work]:
    """Read every work that the manifest lists, split for training.

    Args:
        text_dir: Folder with ``MANIFEST.tsv`` and one folder per language.
        held_out: Names of the works to hold out whole.

    Returns:
        The works in the order of the manifest.
    """
    lines = (text_dir / "MANIFEST.tsv").read_text(encoding="utf-8").splitlines()
    header = lines[0].split("\t")
    works: list[Work] = []
    for line in lines[1:]:
        row = dict(zip(header, line.split("\t"), strict=True))
        name = row["file"]
        text = (text_dir / name).read_text(encoding="utf-8")
        train, end = ("", text) if name in held_out else split_by_position(text)
        credit = f"{row['author']}, {row['title']} ({row['year']})"
        works.append(Work(name, name.split("/")[0], credit, train, end))
    return works


def documents_of(text: str, limit: int = DOCUMENT_CHARACTERS) -> list[str]:
    """Group consecutive paragraphs into documents of about ``limit`` characters."""
    documents: list[str] = []
    held: list[str] = []
    size = 0
    for paragraph in text.split("\n\n"):
        if held and size + len(paragraph) > limit:
            documents.append("\n\n".join(held))
            held, size = [], 0
        held.append(paragraph)
        size += len(paragraph) + 2
    if held:
        documents.append("\n\n".join(held))
    return [document.strip("\n") for document in documents if document.strip()]


def train_tokenizer(texts: list[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer on training text only.

    Args:
        texts: Training documents.
        vocabulary: Tokens in all, special tokens included.

    Returns:
        A tokenizer that plain ``AutoTokenizer`` can load from its saved folder.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return wrap_tokenizer(tokenizer)


def wrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Give a trained tokenizer its special tokens, chat template and length."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL_TOKENS[0],
        bos_token=SPECIAL_TOKENS[1],
        eos_token=SPECIAL_TOKENS[2],
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        # Spaces before punctuation are part of the text: decoding must return it byte for byte.
        clean_up_tokenization_spaces=False,
    )


def render_chat(turns: list[tuple[str, str]]) -> str:
    """Write turns out as the chat template does, without the need for Jinja."""
    parts = [SPECIAL_TOKENS[1]]
    for role, content in turns:
        end = SPECIAL_TOKENS[2] if role == "assistant" else "\n"
        parts.append(f"<|{role}|>\n{content}{end}")
    return "".join(parts)


def _task(sentences: list[str], language: str, rng: random.Random) -> tuple[str, str]:
    """One question about a few sentences, with an answer taken from them."""
    spanish = language == "es"
    kind = rng.choices(("continue", "repeat", "last", "first", "language"), (12, 2, 2, 2, 1))[0]
    if kind == "continue":
        cut = rng.randint(1, len(sentences) - 1)
        shown, answer = " ".join(sentences[:cut]), " ".join(sentences[cut : cut + 2])
        ask = "Continúa este texto" if spanish else "Continue this text"
        return (f"{ask}: «{shown}»" if spanish else f"{ask}: “{shown}”"), answer
    shown = sentences[0]
    words = re.findall(r"\w+", shown)
    asks = {
        "repeat": ("Repite esta frase", "Repeat this sentence", shown),
        "last": ("¿Cuál es la última palabra?", "What is the last word?", words[-1]),
        "first": ("¿Cuál es la primera palabra?", "What is the first word?", words[0]),
        "language": (
            "¿En qué idioma está este texto?",
            "What language is this text in?",
            "Está en español." if spanish else "It is in English.",
        ),
    }
    spanish_ask, english_ask, answer = asks[kind]
    quoted = f"«{shown}»" if spanish else f"“{shown}”"
    ask = spanish_ask if spanish else english_ask
    return f"{ask}: {quoted}" if kind == "repeat" else f"{quoted} {ask}", answer


def chat_examples(works: list[Work], share: float, seed: int) -> list[str]:
    """Build chat documents mechanically from the training text.

    Args:
        works: The split works; only their training part is read.
        share: Characters of chat text per character of training text.
        seed: Seed of the choice of paragraphs and tasks.

    Returns:
        Rendered chats of one to three exchanges in one language.
    """
    rng = random.Random(seed)
    paragraphs: dict[str, list[list[str]]] = {}
    for work in works:
        for paragraph in work.train.split("\n\n"):
            sentences = re.split(r"(?<=[.!?…])\s+(?=[^\W\d_]|[¿¡—«“\"])", paragraph.strip())
            usable = len(sentences) >= 2 and 60 <= len(paragraph) <= 700
            if usable and re.search(r"\w", sentences[0]):
                paragraphs.setdefault(work.language, []).append(sentences)
    wanted = share * sum(len(work.train) for work in works)
    chats: list[str] = []
    size = 0
    while size < wanted and paragraphs:
        language = rng.choice(sorted(paragraphs))
        turns: list[tuple[str, str]] = []
        if rng.random() < 0.2:
            system = "Responde en español." if language == "es" else "Answer in English."
            turns.append(("system", system))
        for _ in range(rng.choice((1, 1, 2, 3))):
            ask, answer = _task(rng.choice(paragraphs[language]), language, rng)
            turns += [("user", ask), ("assistant", answer)]
        chats.append(render_chat(turns))
        size += len(chats[-1])
    return chats


@dataclass
class Blocks:
    """Token blocks in a seeded order: the same seed always gives the same batches.

    Every epoch shuffles the documents, joins them into one stream, cuts it into blocks of
    ``context + 1`` tokens and shuffles those. A batch of shorter sequences takes the same stretch
    of several blocks, so that one batch never comes from one page only.

    Attributes:
        documents: Token ids of each document, BOS and EOS included.
        seed: Seed of the shuffles.
        context: Longest sequence; the length of a block.
        epoch: Epoch in progress.
        start: First block of the group in progress.
        part: Stretch of that group that comes next.
        length: Sequence length of the group in progress; 0 between groups.
    """

    documents: list[NDArray[np.uint16]]
    seed: int
    context: int = CONTEXT
    epoch: int = 0
    start: int = 0
    part: int = 0
    length: int = 0

    def __post_init__(self) -> None:
        self._made_for = -1
        self._blocks: NDArray[np.uint16] = np.zeros((0, self.context + 1), dtype=np.uint16)

    def state(self) -> dict[str, int]:
        """Position in the data, for a checkpoint."""
        return {name: getattr(self, name) for name in ("epoch", "start", "part", "length")}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a saved position."""
        for name, value in state.items():
            setattr(self, name, value)

    def _epoch_blocks(self) -> NDArray[np.uint16]:
        """The blocks of the epoch in progress, in their order."""
        if self._made_for != self.epoch:
            rng = np.random.default_rng((self.seed, self.epoch))
            order = rng.permutation(len(self.documents))
            stream = np.concatenate([self.documents[i] for i in order])
            count = (len(stream) - 1) // self.context
            windows = np.lib.stride_tricks.sliding_window_view(stream, self.context + 1)
            self._blocks = windows[:: self.context][:count][rng.permutation(count)]
            self._made_for = self.epoch
        return self._blocks

    def next_batch(self, tokens: int, length: int) -> NDArray[np.int64]:
        """Return ``tokens / length`` sequences of ``length + 1`` tokens.

        Args:
            tokens: Predicted tokens in the batch.
            length: Sequence length wanted; it changes only where a group of blocks ends.

        Returns:
            Token ids, one sequence a row.
        """
        if self.length == 0:
            self.length = length
        rows = max(1, tokens // self.length)
        if self.part == 0 and self.start + rows > len(self._epoch_blocks()) and self.start > 0:
            self.epoch, self.start = self.epoch + 1, 0
        group = self._epoch_blocks()[self.start : self.start + rows]
        first = self.part * self.length
        batch = group[:, first : first + self.length + 1].astype(np.int64)
        self.part += 1
        if self.part * self.length >= self.context:
            self.start, self.part, self.length = self.start + rows, 0, 0
        return batch


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, works: list[Work], chats: list[str]
) -> list[NDArray[np.uint16]]:
    """Turn training documents and chats into token arrays with BOS and EOS."""
    backend = tokenizer.backend_tokenizer
    texts = [document for work in works for document in documents_of(work.train)]
    marked = [SPECIAL_TOKENS[1] + text + SPECIAL_TOKENS[2] for text in texts]
    encoded = backend.encode_batch(marked + chats, add_special_tokens=False)
    return [np.array(item.ids, dtype=np.uint16) for item in encoded]
