"""The semilla scripts on a tiny corpus: data, training, measurement and the written folder."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import semilla_data  # noqa: E402 - after the path
import semilla_eval  # noqa: E402
import semilla_export  # noqa: E402
import semilla_model  # noqa: E402
import semilla_train  # noqa: E402
import torch  # noqa: E402

CONTEXT = 32
SPANISH = "El señor Ramírez no creía en brujas. —¿Qué dice usted? —preguntó la niña, ¡asustada!"
ENGLISH = "The old house stood by the river. “Nobody lives there,” said the boy; he didn't smile."
HELD_OUT = ("es/third.txt", "en/third.txt")


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> list[semilla_data.Work]:
    root = tmp_path_factory.mktemp("text")
    rows = ["file\tauthor\tauthor_died\ttitle\tyear"]
    for language, sentence in (("es", SPANISH), ("en", ENGLISH)):
        (root / language).mkdir()
        for name in ("first", "second", "third"):
            file = f"{language}/{name}.txt"
            paragraphs = [f"{sentence} {name} {number}, y así." for number in range(60)]
            (root / file).write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
            rows.append(f"{file}\tAna Ejemplo\t1900\tLibro {name}\t1890")
    (root / "MANIFEST.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return semilla_data.load_works(root, HELD_OUT)


@pytest.fixture(scope="module")
def tokenizer(works: list[semilla_data.Work]) -> Any:
    return semilla_data.train_tokenizer([work.train for work in works if work.train], 400)


@pytest.fixture(scope="module")
def documents(works: list[semilla_data.Work], tokenizer: Any) -> list[Any]:
    chats = semilla_data.chat_examples(works, 0.05, seed=3)
    assert chats
    return semilla_data.encode_documents(tokenizer, works, chats)


def trainer(
    documents: list[Any], folder: Path, steps: int = 20, export_minutes: float = 0.0
) -> semilla_train.Trainer:
    folder.mkdir(exist_ok=True)
    plan = semilla_train.Plan(
        minutes=60,
        tokens=steps * 128,
        seed=5,
        batch_tokens=128,
        context=CONTEXT,
        export_minutes=export_minutes,
    )
    hooks = semilla_train.Hooks(lambda _: None, lambda: {}, (folder / "exported").touch)
    model = semilla_model.new_model(400, CONTEXT, hidden=32, layers=1, seed=5)
    blocks = semilla_data.Blocks(documents, 5, CONTEXT)
    return semilla_train.Trainer(model, blocks, plan, folder, hooks)


def test_works_are_split_without_losing_or_sharing_a_character(
    works: list[semilla_data.Work],
) -> None:
    assert [work.name for work in works if not work.train] == list(HELD_OUT)
    for work in works:
        if work.train:
            assert work.train.endswith("\n\n")
            assert 0 < len(work.held_out) < 0.1 * len(work.train)


def test_split_by_position_cuts_at_a_paragraph() -> None:
    text = "\n\n".join(f"paragraph {number}" for number in range(100))
    train, held_out = semilla_data.split_by_position(text, 0.1)
    assert train + held_out == text
    assert held_out.startswith("paragraph 8") or held_out.startswith("paragraph 9")


def test_documents_keep_every_paragraph() -> None:
    text = "\n\n".join("x" * 50 + str(number) for number in range(20))
    documents = semilla_data.documents_of(text, limit=200)
    assert len(documents) > 3
    assert "\n\n".join(documents) == text


def test_tokenizer_returns_spanish_byte_for_byte(tokenizer: Any) -> None:
    text = "  ¿Ñandú, pingüino , «corazón»?\n\n—¡Sí! …  año 1898\t🙂\r\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(list(semilla_data.SPECIAL_TOKENS)) == list(range(6))
    assert len(tokenizer) == 400


def test_chat_mask_covers_replies_and_their_end(tokenizer: Any) -> None:
    turns = [
        ("system", "Responde."),
        ("user", "¿Qué dice usted?"),
        ("assistant", "El señor."),
        ("user", "¿Y qué más?"),
        ("assistant", "La niña."),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == semilla_data.render_chat(
        turns
    )
    encoded = tokenizer.apply_chat_template(
        messages, return_assistant_tokens_mask=True, return_dict=True
    )
    marked = [
        token
        for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
        if mask
    ]
    assert tokenizer.decode(marked) == "El señor.<|eos|>La niña.<|eos|>"
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("¿Qué dice usted?\n<|assistant|>\n")


def test_chat_examples_answer_from_training_text(works: list[semilla_data.Work]) -> None:
    chats = semilla_data.chat_examples(works, 0.2, seed=1)
    assert chats == semilla_data.chat_examples(works, 0.2, seed=1)
    assert all(chat.startswith("<|bos|>") and chat.endswith("<|eos|>") for chat in chats)
    assert not any("third" in chat for chat in chats)


def test_batches_cover_an_epoch_once_at_any_length() -> None:
    documents = [np.arange(start, start + 100, dtype=np.uint16) for start in range(0, 1000, 100)]
    for length in (8, 16, 32):
        blocks = semilla_data.Blocks(documents, 1, CONTEXT)
        inputs: list[int] = []
        batch = blocks.next_batch(32, length)
        while blocks.epoch == 0:
            inputs += batch[:, :-1].ravel().tolist()
            batch = blocks.next_batch(32, length)
        # 31 blocks; those that no longer fill a batch wait for the next shuffle.
        assert len(inputs) >= 28 * CONTEXT
        assert len(inputs) == len(set(inputs))


def test_fast_pass_agrees_with_transformers() -> None:
    model = semilla_model.new_model(50, 16, hidden=128, layers=2, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batch = torch.randint(0, 50, (3, 17))
    semilla_model.training_loss(model, batch).backward()
    fast = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    logits = model(input_ids=batch[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    assert semilla_model.training_loss(model, batch).item() == pytest.approx(loss.item(), rel=1e-5)
    for own, parameter in zip(fast, model.parameters(), strict=True):
        torch.testing.assert_close(own, parameter.grad, rtol=1e-3, atol=1e-5)


def test_orthogonalise_flattens_singular_values() -> None:
    torch.manual_seed(0)
    for shape in ((20, 40), (40, 20)):
        values = torch.linalg.svdvals(semilla_model.orthogonalise(torch.randn(shape), 5))
        assert values.shape == (20,)
        assert float(values.min()) > 0.5
        assert float(values.max()) < 1.3


def test_learning_rate_ends_at_zero_and_sequences_grow() -> None:
    assert 0 < semilla_model.learning_rate_factor(0.0) < 0.1
    assert semilla_model.learning_rate_factor(0.2) == 1.0
    assert semilla_model.learning_rate_factor(1.0) == 0.0
    lengths = [semilla_model.sequence_length(share, 1024) for share in (0.0, 0.5, 0.9)]
    assert lengths == [256, 512, 1024]


def test_resumed_run_equals_uninterrupted_run(documents: list[Any], tmp_path: Path) -> None:
    whole = trainer(documents, tmp_path / "whole")
    assert whole.run()
    part = trainer(documents, tmp_path / "part")
    assert not part.run(stop_after=7)
    rest = trainer(documents, tmp_path / "part")
    assert rest.resume()
    assert rest.progress.step == 7
    assert rest.progress.seconds == part.progress.seconds
    assert rest.run()
    assert rest.progress.step == whole.progress.step == 20
    for one, other in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_asked_to_stop_it_leaves_a_checkpoint(documents: list[Any], tmp_path: Path) -> None:
    run = trainer(documents, tmp_path / "stopped")
    run.step()
    run.stop()
    assert not run.run()
    again = trainer(documents, tmp_path / "stopped")
    assert again.resume()
    assert again.progress.step == 1


def test_resume_without_checkpoint_starts_anew(documents: list[Any], tmp_path: Path) -> None:
    assert not trainer(documents, tmp_path / "new").resume()


def test_time_budget_ends_training_and_exports_on_the_way(
    documents: list[Any], tmp_path: Path
) -> None:
    run = trainer(documents, tmp_path / "timed", steps=10_000, export_minutes=1.0)
    run.progress.seconds = 3599.999
    assert run.run()
    assert run.progress.step <= 2
    assert (tmp_path / "timed" / "exported").exists()


def test_bits_per_byte_of_a_uniform_model(tokenizer: Any) -> None:
    def uniform(input_ids: Any) -> Any:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 400))

    texts = [SPANISH * 5, ENGLISH]
    count = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    size = sum(len(text.encode("utf-8")) for text in texts)
    measured = semilla_eval.bits_per_byte(uniform, tokenizer, texts, window=16)
    assert measured == pytest.approx(count * math.log2(400) / size, rel=1e-5)


def test_windows_score_every_token_once_with_its_context() -> None:
    model = semilla_model.new_model(50, 64, hidden=64, layers=1, seed=1).eval()
    ids = torch.randint(0, 50, (41,)).tolist()
    whole = semilla_eval.token_nll_bits(model, ids, window=64, stride=32)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")
    assert whole == pytest.approx(float(loss) / math.log(2), rel=1e-5)
    # A model that has only just been made barely looks back, so windows change little.
    windows = semilla_eval.token_nll_bits(model, ids, window=16, stride=8, rows=3)
    assert windows == pytest.approx(whole, rel=0.05)


def test_witten_bell_by_hand() -> None:
    model = semilla_eval.WittenBell(b"abab", order=2)
    first = (2 + 2 / 256) / 6  # P(a): seen twice in four bytes, two kinds
    unigram_b = (2 + 2 / 256) / 6
    second = (2 + 1 * unigram_b) / 3  # P(b | a): "a" was followed twice, always by b
    assert model.bits(b"ab") == pytest.approx(-math.log2(first) - math.log2(second))
    total = sum(2 ** -model.bits(bytes([byte])) for byte in range(256))
    assert total == pytest.approx(1.0)


def test_baselines_give_each_its_kinder_form(works: list[semilla_data.Work]) -> None:
    own = [work.train for work in works if work.train and work.language == "es"]
    other = [work.train for work in works if work.train and work.language == "en"]
    row = semilla_eval.baselines(own, other, {"position": own[:1]})["position"]
    assert row["xz"] == min(row["xz_alone"], row["xz_primed"]) > 0
    assert row["ngram"] == min(row["ngram_one_language"], row["ngram_both_languages"]) > 0


def test_finish_writes_a_folder_that_loads_and_describes_itself(
    works: list[semilla_data.Work],
    tokenizer: Any,
    documents: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(semilla_export, "CONTEXT", CONTEXT)
    monkeypatch.setattr(semilla_export, "NEW_TOKENS", 3)
    made = trainer(documents, tmp_path / "work", steps=2)
    made.run()
    made.progress.curve.append({"minutes": 1.0, "tokens": 256.0, "es_bpb": 8.0, "en_bpb": 8.0})
    run = semilla_export.Run(made.plan, made.progress, works, 1000, 1, tmp_path / "work")
    out = tmp_path / "model"
    semilla_export.export_model(made.model, tokenizer, out, provisional=True)
    assert json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["provisional"]
    semilla_export.finish(made.model, tokenizer, run, out, lambda _: None)
    result = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert not result["provisional"]
    for language in ("es", "en"):
        assert result["bits_per_byte"][language]["works"]["semilla"] > 0
    assert result["float16_cost"]["float16"] == pytest.approx(
        result["float16_cost"]["float32"], rel=1e-3
    )
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.count("José Calvo Tello") == 2
    assert str(tmp_path) not in card + json.dumps(result)
    model, loaded = semilla_export.load_exported(out)
    assert model.config.eos_token_id == loaded.eos_token_id == 2
    assert loaded.chat_template == semilla_data.CHAT_TEMPLATE


def test_schedule_takes_the_larger_of_time_and_tokens(documents: list[Any], tmp_path: Path) -> None:
    run = trainer(documents, tmp_path / "share", steps=10)
    run.progress.tokens = 128 * 5
    assert run.share() == 0.5
    run.progress.seconds = 0.75 * 3600
    assert run.share() == 0.75
