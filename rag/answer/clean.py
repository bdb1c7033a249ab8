"""Text of others made fit for a prompt and a screen: it is quoted, and never obeyed.

What a reader cannot see goes (zero-width, direction and tag characters, controls), and so does
what a chat template would read as its own marks. A detector of phrases that speak to a machine
flags a text, so that it is quoted last; it is a help, not the defence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

_UNSEEN = re.compile(
    "\x1b\\[[0-9;?]*[ -/]*[@-~]"  # a terminal's orders
    "|[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Marks of common chat templates; bars and angles in their wide forms too.
_TEMPLATE = re.compile(
    r"[<＜]\s*[|｜][^<>＜＞\n]{0,60}[|｜]\s*[>＞]"
    r"|</?(?:s|bos|eos|pad|unk|mask|think|tool_call|tool_response|start_of_turn|end_of_turn)>"
    r"|<\|?(?:im_start|im_end|endoftext|eot_id|begin_of_text|end_of_text)\|?>"
    r"|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
    r"|<\|?(?:start|end)_header_id\|?>|\[(?:CLS|SEP|PAD|MASK|UNK|BOS|EOS)\]",
    re.IGNORECASE,
)
_LINK = re.compile(r"\b(?:https?|ftp|file|javascript|data|onion|magnet|ipfs):\S+|\bwww\.\S+", re.I)
_IMAGE_OR_LINK = re.compile(r"!?\[([^\[\]\n]{0,200})\]\(\s*[^()\n]{0,500}\)")
_TO_A_MACHINE = re.compile(
    r"\b(?:ignor[ae]\w*|olvid[ae]\w*|forget|disregard|override|descart[ae]\w*)\b[^.\n]{0,40}"
    r"\b(?:instruc\w+|previous|prior|above|anterior\w*|prompt|reglas|rules|órdenes|orders)\b"
    r"|\b(?:system|developer|admin\w*)\s*(?:prompt|message|override|mode)\b"
    r"|\b(?:prompt|mensaje|modo)\s+(?:de(?:l)?\s+)?(?:sistema|desarrollador|administrador)\b"
    r"|^\s*(?:system|assistant|user|sistema|asistente|usuario|developer)\s*:"
    r"|\b(?:you are|eres|act as|actúa como|pretend to be|finge ser)\s+(?:now|ahora|un|una|an?)\b"
    r"|\b(?:print|reveal|show|send|repeat|output|imprime|revela|muestra|envía|repite|escribe)\b"
    r"[^.\n]{0,40}\b(?:token|password|secret\w*|key|clave|contraseña|credencial\w*|prompt)\b"
    r"|\b(?:respond|reply|answer|responde|contesta)\b[^.\n]{0,20}\b(?:only|solo|sólo|únicamente)\b"
    r"|\b(?:new|nuevas?)\s+(?:instructions?|instruccion(?:es)?)\b"
    r"|\b(?:ai|ia|language model|modelo de lenguaje|chatbot|asistente|assistant)\b[^.\n]{0,30}"
    r"\b(?:must|should|debe|tiene que|has to)\b",
    re.IGNORECASE | re.MULTILINE,
)


def clean(text: str, marks: Collection[str] = ()) -> str:
    """`text` without unseen characters and template marks.

    Args:
        text: of a feed, a file or a person.
        marks: further strings that may not stand in it, such as a tokenizer's special tokens.

    Returns:
        A text in which no mark is left, not even one that taking out another put together.
    """
    kept = _visible(text)
    while (shorter := _without_marks(kept, marks)) != kept:
        kept = shorter
    return kept


def one_line(text: str, marks: Collection[str] = ()) -> str:
    """`clean`, on one line: for titles and names."""
    return " ".join(clean(text, marks).split())


def without_links(text: str, instead: str = "…") -> str:
    """`text` with every address replaced: links come from the list of sources alone."""
    return _LINK.sub(instead, _IMAGE_OR_LINK.sub(r"\1", text))


def is_suspicious(text: str) -> bool:
    """Whether a text seems to speak to a machine rather than to a reader."""
    return bool(_TEMPLATE.search(text) or _TO_A_MACHINE.search(clean(text)))


def _visible(text: str) -> str:
    seen = _UNSEEN.sub("", text)
    return "".join(
        letter if letter in "\n\t" or unicodedata.category(letter) not in {"Cc", "Cs"} else " "
        for letter in seen
    )


def _without_marks(text: str, marks: Collection[str]) -> str:
    kept = _TEMPLATE.sub(" ", text)
    for mark in marks:
        if mark.strip():
            kept = kept.replace(mark, " ")
    return kept
