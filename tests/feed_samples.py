"""Feeds of our own writing, as bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from html import escape

WORDS = (
    *("river", "stone", "cell", "light", "protein", "signal", "forest"),
    *("ocean", "planet", "engine", "circuit", "memory", "vector", "mountain"),
    *("village", "market", "harvest", "winter", "summer", "thunder", "copper"),
    *("iron", "silver", "glass", "paper", "ink", "window", "garden"),
    *("bridge", "tunnel", "orbit", "comet", "virus", "enzyme", "neuron"),
    *("muscle", "bone", "skin", "leaf", "root", "seed"),
)


def text_of(number: int, words: int = 60) -> str:
    """A text like no other: the words of `number`."""
    rng = random.Random(number)
    return " ".join(rng.choice(WORDS) for _ in range(words)) + "."


def item(number: int, **fields: str) -> str:
    """One RSS item; `fields` replace or add elements, "" takes one out."""
    elements = {
        "title": f"Item {number}",
        "link": f"https://news.example/{number}",
        "guid": f"tag:news.example,{number}",
        "pubDate": "Tue, 05 Aug 2025 10:00:00 GMT",
        "description": escape(f"<p>{text_of(number)}</p>"),
    } | fields
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in elements.items() if value)
    return f"<item>{inner}</item>"


def rss(items: Sequence[str], *, title: str = "News", more: str = "") -> bytes:
    """An RSS 2.0 feed."""
    return (
        '<?xml version="1.0" encoding="utf-8"?><rss version="2.0"><channel>'
        f"<title>{title}</title><link>https://news.example/</link>{more}{''.join(items)}"
        "</channel></rss>"
    ).encode()


def twenty(start: int = 0) -> bytes:
    """Twenty entries."""
    return rss([item(number) for number in range(start, start + 20)])
