"""A conversation in the terminal: questions, answers as they come, and words that begin with /."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from client.cli_memory import as_markdown
from federation import durable
from federation.errors import ConscienceError
from federation.language import _, languages, set_language
from rag.answer.clean import clean, one_line, without_links
from rag.answer.events import Done, Question, Token
from rag.answer.respond import Responder
from rag.answer.result import Answer, Source
from rag.chat.memory import LOADED_TURNS
from rag.chat.session import Conversation

PROMPT = "› "


@dataclass
class Terminal:
    """One person, one conversation.

    Attributes:
        talk: the conversation.
        base: how questions are asked; its text is not used.
        responders: with the network's adapter (True) or by the base model alone.
        console: where answers go.
        folder: where `/export` writes.
        last: the last answer.
    """

    talk: Conversation
    base: Question
    responders: Callable[[bool], Responder]
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    folder: Path = field(default_factory=Path.cwd)
    last: Answer | None = None

    def run(self, read: Callable[[str], str] = input) -> None:
        """Talk until the input ends or somebody says /quit."""
        self._remember_lines()
        self.say(_("Ask something. /help lists the commands; Ctrl-C stops an answer."))
        if self.talk.responder.search is None:
            self.say(_("No feeds are searched yet: answers come from what you said here alone."))
        while True:
            try:
                line = read(PROMPT).strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                self.say(_("(/quit or Ctrl-D ends.)"))
                continue
            if line in ("/quit", "/exit", "/q"):
                return
            try:
                self.take(line)
            except ConscienceError as err:
                self.say(" ".join(filter(None, (err.message, err.hint))), style="red")

    def take(self, line: str) -> None:
        """Answer one line: a question or a command."""
        if not line.startswith("/"):
            if line:
                self.ask(line)
            return
        word, _space, rest = line.partition(" ")
        command = self._commands().get(word)
        if command is None:
            self.say(_("There is no {word}; /help lists what there is.").format(word=word))
            return
        command[0](rest.strip())

    def ask(self, text: str, *, anyway: bool = False) -> Answer:
        """Ask, show the answer as it comes and its sources below."""
        question = replace(self.base, text=text, anyway=anyway)
        stopped: list[bool] = []
        waiting = self.console.status(_("thinking"))  # the first time, the model is loaded
        with _interrupted(lambda: stopped.append(True)), waiting:
            for event in self.talk.ask(question, lambda: bool(stopped)):
                if isinstance(event, Token):
                    waiting.stop()
                    self._write(event.text)
                elif isinstance(event, Done):
                    self.last = event.answer
        assert self.last is not None  # noqa: S101 - `ask` ends with Done
        self._write("\n")
        if self.last.was_stopped:
            self.say(_("(stopped)"))
        self._show_sources([source for source in self.last.sources if source.is_cited])
        self._show_doubts(self.last)
        return self.last

    def say(self, text: str, style: str = "dim") -> None:
        """One line of the program's own."""
        self.console.print(text, style=style, markup=False)

    def _commands(self) -> dict[str, tuple[Callable[[str], None], str]]:
        return {
            "/why": (self._why, _("why this answer: numbers, style, model")),
            "/sources": (self._sources, _("all sources of the last answer, with their quotes")),
            "/anyway": (
                self._anyway,
                _("answer the last question even if the sources seem not to"),
            ),
            "/memory": (self._memory, _("what is remembered of this talk; with words: search")),
            "/model": (self._model, _("which model answers")),
            "/base": (
                self._base,
                _("on or off: the base model alone, or with the network's adapter"),
            ),
            "/rag": (self._rag, _("on or off: look into the sources or not")),
            "/lang": (self._lang, _("language of the program and of answers: es, en or auto")),
            "/train": (self._train, _("on or off: may this talk be trained on")),
            "/export": (self._export, _("write this talk as Markdown; a file may be named")),
            "/new": (self._new, _("begin another talk")),
            "/help": (self._help, _("this list")),
            "/quit": (self._help, _("end; Ctrl-D does too")),
        }

    def _why(self, _rest: str) -> None:
        if self.last is None:
            self.say(_("Nothing was asked yet."))
            return
        answer = self.last
        text = _("style: {style} ({reason})")
        self.say(text.format(style=answer.style, reason=answer.style_reason))
        self._model("")
        for name, value in answer.metrics.items():
            shown = f"{value:.4g}" if isinstance(value, float) else value
            self.say(f"{name}: {shown}")
        usage = answer.usage
        self.say(
            _("{prompt} + {answer} tokens; first word after {first} ms, all after {all} ms").format(
                prompt=usage.prompt_tokens,
                answer=usage.answer_tokens,
                first=round(usage.ttft_ms),
                all=round(usage.latency_ms),
            )
        )
        for source in answer.sources:
            cosine = "" if source.cosine is None else f"  cosine {source.cosine:.3f}"
            self.say(f"[{source.n}] {source.score:.3f}  bm25 {source.bm25:.2f}{cosine}")

    def _sources(self, _rest: str) -> None:
        if self.last is None or not self.last.sources:
            self.say(_("The last answer has no sources."))
            return
        self._show_sources(self.last.sources, quotes=True)

    def _anyway(self, _rest: str) -> None:
        if self.last is None:
            self.say(_("Nothing was asked yet."))
            return
        self.ask(self.last.question, anyway=True)

    def _memory(self, rest: str) -> None:
        memory = self.talk.memory
        if memory is None:
            self.say(_("Nothing is remembered of this talk."))
            return
        turns = memory.search(rest) if rest else memory.turns(self.talk.session, last=LOADED_TURNS)
        for turn in turns:
            self.say(f"{turn.role}: {clean(turn.content)}")
        if not turns:
            self.say(_("Nothing found.") if rest else _("Nothing is remembered."))

    def _model(self, _rest: str) -> None:
        model = self.talk.responder.model
        adapter = model.adapter or _("no adapter")
        text = _("model: {base} + {adapter} ({sha})")
        self.say(text.format(base=model.base, adapter=adapter, sha=model.sha256[:12]))

    def _base(self, rest: str) -> None:
        if rest in ("on", "off"):
            self.talk.responder = self.responders(rest == "off")
        self._model("")

    def _rag(self, rest: str) -> None:
        if rest in ("on", "off"):
            self.base = replace(self.base, rag=rest == "on")
        self.say(
            _("Sources are looked into.") if self.base.rag else _("No sources are looked into.")
        )

    def _lang(self, rest: str) -> None:
        if rest == "auto":
            self.base = replace(self.base, language="")
        elif rest in languages():
            set_language(rest)
            self.base = replace(self.base, language=rest)
        else:
            self.say(_("Choose from: {known}.").format(known=", ".join([*languages(), "auto"])))
            return
        self.say(_("Language: {code}").format(code=rest))

    def _train(self, rest: str) -> None:
        memory = self.talk.memory
        if memory is None or rest not in ("on", "off"):
            self.say(_("Say /train on or /train off, in a talk that is remembered."))
            return
        self.talk.train = rest == "on"
        if self.talk.session:
            memory.mark_for_training(self.talk.session, train=self.talk.train)
        if self.talk.train:
            self.say(_("This talk may be trained on."))
        else:
            self.say(_("This talk is never trained on."))

    def _export(self, rest: str) -> None:
        memory = self.talk.memory
        if memory is None or not self.talk.session:
            self.say(_("There is nothing to write yet."))
            return
        path = self.folder / (rest or f"chat-{self.talk.session[:12]}.md")
        durable.write_text(path.expanduser().absolute(), as_markdown(memory, self.talk.session))
        self.say(_("Written to {path}").format(path=path))

    def _new(self, _rest: str) -> None:
        self.talk.session = ""
        self.last = None
        self.say(_("Another talk begins."))

    def _help(self, _rest: str) -> None:
        for word, (_command, what) in self._commands().items():
            self.say(f"{word:<9} {what}")

    def _show_sources(self, sources: Any, *, quotes: bool = False) -> None:  # noqa: ANN401
        for source in sources:
            self.say(source_line(source))
            if quotes:
                self.say(f"    “{one_line(without_links(clean(source.quote)))}”")

    def _show_doubts(self, answer: Answer) -> None:
        for sentence in answer.sentences:
            text = answer.answer[sentence.start : sentence.end]
            if not sentence.is_supported:
                self.say(_("not in the sources: {text}").format(text=text), style="yellow")
            elif sentence.is_matched:
                numbers = ", ".join(f"[{n}]" for n in sentence.cited)
                self.say(_("{sources} matched automatically: {text}").format(
                    sources=numbers, text=text))  # fmt: skip

    def _write(self, text: str) -> None:
        self.console.print(text, end="", markup=False)

    def _remember_lines(self) -> None:
        """Arrow up brings back what the user asked before, from the memory; no file of its own."""
        if self.talk.memory is None or not sys.stdin.isatty():
            return
        try:
            import readline
        except ImportError:  # Windows
            return
        for session in reversed(self.talk.memory.sessions()[:20]):
            for turn in self.talk.memory.turns(session.id, last=LOADED_TURNS):
                if turn.role == "user":
                    readline.add_history(one_line(turn.content))


def source_line(source: Source) -> str:
    """`[n] title · feed · date · link`, on one line, and a warning if there is reason for it."""
    parts = [source.title or "—", source.feed, source.published[:10], one_line(source.url)]
    line = f"[{source.n}] " + " · ".join(part for part in parts if part)
    if source.is_suspicious:
        line += "  " + _("(reads like orders to a machine)")
    return line


@contextmanager
def _interrupted(note: Callable[[], None]) -> Iterator[None]:
    """Inside the block Ctrl-C calls `note` and interrupts nothing."""

    def handle(_signal: int, _frame: FrameType | None) -> None:
        note()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
