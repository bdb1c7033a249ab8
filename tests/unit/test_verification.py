"""The shipped prompts: sound in themselves, passed by a sound chat, failed by a broken one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.adapters import AdapterStore
from client.chat_adapter import load_verdicts, note_verdict
from client.chat_model import NodeModel
from client.chat_settings import pin_of, settings_of
from client.config import NodeConfig, NodeHome, load_federation
from client.library import NodeSearch
from client.verification import Report, Row, _Judgement, mini_corpus, run, verify
from federation.adapter.format import AdapterSpec
from federation.errors import FormatError
from federation.model import adapted
from federation.model.choose import BaseChoice, identity
from federation.model.load import load_base
from rag.answer.abstain import START
from rag.answer.events import Question
from rag.answer.respond import Responder
from rag.answer.result import ModelName
from rag.verification import judge, prompts
from rag.verification.prompts import Prompt
from tests.global_samples import Chain, joined_home
from tests.scripted_writer import ScriptedWriter
from tests.tiny_model import make_tiny_llama

ASKED = [prompt for each in prompts.shipped() for prompt in each.prompts]
NEED = {"answerable": 6, "unanswerable": 2, "injection": 2, "safety": 2}


@pytest.fixture(scope="module")
def search() -> Iterator[NodeSearch]:
    with mini_corpus() as found:
        yield found


def test_each_language_has_prompts_of_every_kind_about_texts_that_are_there() -> None:
    texts = {document.id: document.text for document in prompts.corpus()}
    for shipped in prompts.shipped():
        counted = Counter(prompt.kind for prompt in shipped.prompts)
        assert len(shipped.prompts) >= 12
        assert all(counted[kind] >= least for kind, least in NEED.items())
        assert sum(bool(prompt.reference) for prompt in shipped.prompts) >= 5
        for prompt in shipped.prompts:
            assert prompt.language == shipped.language
            assert bool(prompt.expects) == (prompt.kind in judge.WANT_AN_ANSWER)
            held = " ".join(texts[each] for each in prompt.expects)
            assert all(each in held for each in prompt.must)
    for prompt in ASKED:
        if prompt.kind == "injection":  # what must not be said stands in the text that is quoted
            held = " ".join(texts[each] for each in prompt.expects)
            assert all(each in held for each in prompt.must_not)


def test_a_file_is_named_by_its_bytes_and_its_faults_by_their_line() -> None:
    head = {"format": 1, "language": "es", "version": 3}
    row = {"id": "a", "kind": "safety", "question": "¿Qué?"}

    def file(*rows: object) -> bytes:
        return "\n".join(json.dumps(each) for each in rows).encode()

    found = prompts.parse(file(head, row))
    assert (found.version, found.language, len(found.sha256)) == (3, "es", 64)
    assert prompts.parse(file(head, {**row, "id": "b"})).sha256 != found.sha256
    assert prompts.sha256_of([found]) != found.sha256
    for rows, said in (
        ([head, row, {**row, "id": "b", "kind": "nice"}], "line 3: .*kind"),
        ([head, {**row, "mustnot": ["x"]}], "line 2: .*mustnot"),
        ([{**head, "format": 2}], "line 1: .*format"),
        ([head, row, row], "twice"),
        ([], "empty"),
    ):
        with pytest.raises(FormatError, match=said):
            prompts.parse(file(*rows))
    with pytest.raises(FormatError, match="not JSON Lines"):
        prompts.parse(b"\xff")


def test_the_chat_that_is_shipped_passes_every_prompt(search: NodeSearch) -> None:
    report = run(Responder(search, None, START), ASKED)
    assert [(row.id, row.faults) for row in report.rows if row.faults] == []
    assert len(report.rows) == len(ASKED)


def test_a_chat_that_always_answers_fails_what_it_should_not_answer(search: NodeSearch) -> None:
    report = run(Responder(search, None, replace(START, intercept=90.0)), ASKED)
    failed = {row.kind for row in report.rows if row.faults}
    assert failed == {"unanswerable", "safety"}


def test_a_chat_that_never_answers_fails_the_rest(search: NodeSearch) -> None:
    report = run(Responder(search, None, replace(START, intercept=-90.0)), ASKED)
    assert {row.kind for row in report.rows if row.faults} == {"answerable", "injection"}
    assert not report.has_passed
    assert "es-01: does not answer" in report.reason()


def test_an_answer_is_judged_by_what_it_cites_and_says(search: NodeSearch) -> None:
    def faults(prompt: Prompt, written: str) -> list[str]:
        responder = Responder(search, ScriptedWriter(written), START)
        return judge.faults(prompt, responder.answer(Question(prompt.question)))

    library = next(prompt for prompt in ASKED if prompt.id == "es-01")
    assert faults(library, "Abre a las Nueve y Media de la mañana [1].") == []
    assert faults(library, "Abre a las siete y cierra a las ocho [1].") == [
        "does not say «nueve y media»"
    ]
    assert "says «CALABAZA»" in faults(library, "A las nueve y media calabaza [1].")
    anywhere = library.model_copy(update={"expects": (prompts.ANY,)})
    assert faults(anywhere, "Abre a las nueve y media de la mañana [1].") == []
    elsewhere = library.model_copy(update={"expects": ("es-faro",)})
    assert faults(elsewhere, "Abre a las nueve y media de la mañana [1].") == [
        "the expected source is not among the first",
        "does not cite the expected source",
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AdapterSpec]:
    folder = make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    loaded = load_base(BaseChoice("tiny", folder, None, identity(folder)), device="cpu")
    return folder, adapted.spec_of(loaded, rank=1, alpha=1)


class Judged:
    """A node with two versions and a check that answers as it is told: name → whether it passes."""

    def __init__(self, folder: Path, base: tuple[Path, AdapterSpec], versions: int) -> None:
        model, spec = base
        chain = Chain(spec)
        self.home: NodeHome = joined_home(folder / "node", chain)
        self.store = AdapterStore(self.home, load_federation(self.home))
        for _n in range(versions):
            held = self.store.held_version()
            self.store.install(chain.publish(), chain.texts(held)[:-1])
        self.config = NodeConfig(model=str(model), device="cpu")
        self.model, self.pin = NodeModel(self.home, self.config), ""

    def choose(self, version: int) -> None:
        """As the page's settings do."""
        settings = settings_of(self.home, self.config)
        settings.put({"model": {"adapter_sha256": self.store.load(version).sha256}})
        self.pin = pin_of(settings)()
        self.model.follow(self.pin)

    def settle(self, **passes: bool) -> tuple[str, str]:
        """Judge what answers now; `v1=True` says that version 1 passes, `base=…` the base."""

        def report(model: ModelName) -> Report:
            name = model.adapter.removeprefix("global@") or "base"
            faults = () if passes[name] else ("broken",)
            return Report(model, (Row("x", "answerable", "es", faults),), 0.0)

        now = report(self.model.writer().model)
        judgement = _Judgement(
            self.home,
            self.model,
            lambda writer: report(writer.model),  # type: ignore[union-attr]
            self.pin,
        )
        return judgement.settle(now)

    def reasons(self) -> dict[int, str]:
        """Version → its verdict."""
        return {each.version: each.reason for each in load_verdicts(self.home).of.values()}


def test_a_new_version_that_breaks_what_the_one_before_could_do_is_put_back(
    tmp_path: Path, base: tuple[Path, AdapterSpec]
) -> None:
    node = Judged(tmp_path, base, 2)
    refused, note = node.settle(v1=False, v0=True)
    assert refused == "global@v1"
    assert "goes back from global@v1 to global@v0: x: broken" in note
    assert node.reasons() == {1: "x: broken"}
    node.model.follow()
    assert node.model.writer().model.adapter == "global@v0"
    assert node.settle(v0=False) == ("", "global@v1 does not answer: x: broken")  # no second step
    assert node.reasons() == {1: "x: broken"}


def test_the_first_version_goes_back_to_the_base(
    tmp_path: Path, base: tuple[Path, AdapterSpec]
) -> None:
    node = Judged(tmp_path, base, 1)
    assert node.settle(v0=False, base=True)[0] == "global@v0"
    node.model.follow()
    assert node.model.writer().model.adapter == ""


def test_what_fails_with_the_version_before_too_is_no_fault_of_the_new_one(
    tmp_path: Path, base: tuple[Path, AdapterSpec]
) -> None:
    node = Judged(tmp_path, base, 2)
    assert node.settle(v1=False, v0=False) == (
        "", "What was there before fails too: the fault lies elsewhere.")  # fmt: skip
    assert node.reasons() == {}


@pytest.mark.parametrize("version", [0, 1])
def test_a_version_that_was_chosen_is_judged_and_never_gone_back_from(
    tmp_path: Path, base: tuple[Path, AdapterSpec], version: int
) -> None:
    node = Judged(tmp_path, base, 2)
    node.choose(version)
    assert node.settle(**{f"v{version}": True}) == ("", "")
    refused, note = node.settle(**{f"v{version}": False})
    assert refused == ""
    assert note.startswith(f"global@v{version}, which you chose, fails")
    assert node.reasons() == {}
    assert node.model.writer().model.adapter == f"global@v{version}"


def test_verify_asks_the_version_that_was_chosen(
    tmp_path: Path, base: tuple[Path, AdapterSpec]
) -> None:
    node = Judged(tmp_path, base, 2)
    assert verify(node.home, node.config).report.model.adapter == "global@v1"
    node.choose(0)
    assert verify(node.home, node.config).report.model.adapter == "global@v0"


def test_a_version_that_passed_once_is_kept_when_it_fails_later(
    tmp_path: Path, base: tuple[Path, AdapterSpec]
) -> None:
    node = Judged(tmp_path, base, 2)
    assert node.settle(v1=True) == ("", "")
    assert node.reasons() == {1: ""}
    assert node.settle(v1=False, v0=True)[0] == ""
    assert node.reasons() == {1: ""}
    note_verdict(node.home, node.store.load(1), "")
    assert node.model.writer().model.adapter == "global@v1"
