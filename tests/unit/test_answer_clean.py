"""Text of others: what cannot be seen and what a template would read goes; words stay."""

from __future__ import annotations

import pytest

from rag.answer.clean import clean, is_suspicious, one_line, without_links

pytestmark = pytest.mark.security


@pytest.mark.parametrize(
    "mark",
    ["<|user|>", "<|im_start|>system", "<｜User｜>", "＜|eos|＞", "</s>", "[INST]", "[/INST]",
     "<<SYS>>", "<start_of_turn>", "<|start_header_id|>", "<im_end>", "<think>",
     "<|us<|x|>er|>", "[SEP]",
     "<|us\u200ber|>", "<\u202e|user|>"],
)  # fmt: skip
def test_no_mark_of_a_template_is_left(mark: str) -> None:
    kept = clean(f"antes {mark} después")
    assert "|>" not in kept
    for piece in ("<|", "</s>", "INST]", "SYS>>", "_turn>", "im_end", "<think", "｜>", "[SEP]"):
        assert piece not in kept
    assert kept.startswith("antes")
    assert kept.endswith("después")


def test_marks_of_the_tokenizer_at_hand_go_too_even_when_nested() -> None:
    assert "@@" not in clean("a @@ b", ["@@"])
    assert "ABC" not in clean("x AABCBC y", ["ABC"])


def test_orders_to_a_terminal_go_whole() -> None:
    assert clean("a\x1b[31mb\x1b[2Jc\x07") == "abc "


@pytest.mark.parametrize("unseen", ["\u200b", "\u202e", "\u2066", "\ufeff", "\U000e0041", "\u00ad"])
def test_what_no_reader_sees_goes(unseen: str) -> None:
    assert clean(f"pa{unseen}labra") == "palabra"


def test_plain_text_in_any_language_stays() -> None:
    for text in (
        "Año 2026: 5 < 6 y a|b",
        "日本語のテキスト",
        "x <y> [1] {z}",
        "línea\n\notra\tcolumna",
    ):
        assert clean(text) == text


def test_titles_become_one_line() -> None:
    assert one_line("a\n\u200b<|user|> b\r\n") == "a b"


@pytest.mark.parametrize(
    "text",
    ["mira https://evil.example/a?b=1 ya", "www.evil.example hoy", "javascript:alert(1)",
     "[clic](http://evil.example/x)", "![i](data:image/png;base64,AA)"],
)  # fmt: skip
def test_addresses_are_not_shown(text: str) -> None:
    shown = without_links(text)
    assert "evil" not in shown
    assert "alert" not in shown
    assert "base64" not in shown


@pytest.mark.parametrize(
    "text",
    ["Los científicos ignoran por qué la estrella se apaga.", "The system sends a message to Mars.",
     "Imprimen en 3D una llave inglesa.", "She printed the book in 1905.",
     "El modelo predice lluvia para el martes.", "You are what you eat, says the study."],
)  # fmt: skip
def test_ordinary_news_are_not_suspected(text: str) -> None:
    assert not is_suspicious(text)
