// The conversation: asking, streaming, stopping, and what is said below an answer.
import { call, Refused, stream } from "./api.js";
import { $, el, say } from "./dom.js";
import { showPast } from "./past.js";
import { aim, reveal, showSources } from "./sources.js";
import { t } from "./words.js";

let session = null;
let running = null;

export const currentSession = () => session;

export function beginTalk() {
  running?.stop.abort();
  session = null;
  $("talk").replaceChildren();
  $("empty").hidden = false;
  $("export").hidden = true;
  showSources(null);
}

export async function openTalk(id) {
  const held = await call("GET", `/api/sessions/${id}`);
  beginTalk();
  session = id;
  $("empty").hidden = true;
  $("export").hidden = false;
  let asked = "";
  for (const turn of held.turns) {
    if (turn.role === "user") { asked = turn.content; $("talk").append(bubble(asked)); continue; }
    const answer = { ...turn, answer: turn.content, question: asked, sentences: [], model: { adapter: turn.adapter } };
    const shown = frame();
    finish(shown, answer);
    $("talk").append(shown.root);
  }
  scrollDown();
}

export async function ask(message, anyway = false) {
  if (running) return;
  $("empty").hidden = true;
  const shown = frame();
  $("talk").append(bubble(message), shown.root);
  shown.root.classList.add("waiting");
  running = { stop: new AbortController(), id: null };
  toggle(true);
  say(t("thinking"));
  try {
    await stream({ message, session_id: session, rag: $("rag").checked, adapter: $("adapter").value, anyway },
      (name, data) => take(shown, name, data), running.stop.signal);
    if (shown.root.classList.contains("waiting")) note(shown, t("lost"));
  } catch (error) {
    if (error.name === "AbortError") note(shown, t("stopped"));
    else note(shown, error instanceof Refused && error.status === 429 ? t("busy") : `${t("error")}: ${error.message}`);
  }
  shown.root.classList.remove("waiting");
  running = null;
  toggle(false);
  showPast();
}

export async function stop() {
  if (!running) return;
  const { id, stop: controller } = running;
  try { await call("DELETE", `/api/chat/${id}`); } catch { controller.abort(); }
}

function take(shown, name, data) {
  if (name === "start") running.id = data.message_id;
  else if (name === "sources") {
    session = data.session_id || session;
    showSources({ sources: data.sources });
  } else if (name === "token") {
    shown.text.append(data.text);
    scrollDown();
  } else if (name === "done") {
    session = data.session_id;
    $("export").hidden = false;
    finish(shown, data);
    say(data.was_stopped ? t("stopped") : `${t("done")}: ${data.answer}`);
  } else if (name === "error") note(shown, `${t("error")}: ${data.detail}`);
}

function toggle(busy) {
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  if (!busy) $("message").focus();
}

const bubble = (text) => el("div", { class: "asked" }, el("span", { class: "unseen" }, `${t("you")}: `), text);

function frame() {
  const text = el("div", { class: "text" });
  const under = el("div", { class: "under" });
  const root = el("article", { class: "answer" }, el("span", { class: "unseen" }, `${t("answer")}: `), text, under);
  return { root, text, under };
}

function note(shown, text) {
  shown.root.classList.remove("waiting");
  shown.under.replaceChildren(el("span", { class: "problem", role: "alert" }, text));
  say(text);
}

function finish(shown, answer) {
  shown.root.classList.remove("waiting");
  shown.text.replaceChildren(...marked(answer));
  const choose = () => {
    for (const other of document.querySelectorAll(".answer.chosen")) other.classList.remove("chosen");
    shown.root.classList.add("chosen");
    showSources(answer);
  };
  shown.root.addEventListener("click", (event) => { if (!event.target.closest(".under")) choose(); if (event.target.dataset.n) aim(event.target.dataset.n); });
  shown.under.replaceChildren(...[
    thumb(shown, answer, "up", t("good")), thumb(shown, answer, "down", t("bad")),
    el("button", { class: "quiet small", type: "button", onclick: () => { choose(); reveal(); } }, t("why")),
    answer.abstained ? el("button", { class: "quiet small", type: "button", onclick: () => ask(answer.question, true) }, t("anyway")) : null,
    kind(answer),
  ].filter(Boolean));
  choose();
  scrollDown();
}

function kind(answer) {
  if (!answer.style) return null;
  const words = { extractive: t("quoted"), generative: t("written"), none: t("unknown") };
  const stopped = answer.was_stopped ? ` · ${t("stopped")}` : "";
  const by = answer.style === "generative" ? ` · ${answer.model.adapter || answer.model.base}` : "";
  return el("span", { class: `tag ${answer.style}` }, words[answer.style] + by + stopped);
}

// The text with its citations as buttons, and sentences that no source holds underlined.
function marked(answer) {
  const doubts = answer.sentences.filter((each) => !each.is_supported || each.is_matched);
  const made = [];
  let place = 0;
  for (const each of doubts) {
    made.push(...cited(answer.answer.slice(place, each.start)));
    const title = each.is_supported ? `${t("matched")}: ${each.cited.map((n) => `[${n}]`).join(" ")}` : t("unsupported");
    made.push(el("span", { class: "doubt", title }, ...cited(answer.answer.slice(each.start, each.end))));
    place = each.end;
  }
  return [...made, ...cited(answer.answer.slice(place))];
}

function cited(text) {
  return text.split(/(\[\d{1,3}\])/).map((part) => {
    const found = /^\[(\d{1,3})\]$/.exec(part);
    return found ? el("button", { class: "cite", type: "button", "data-n": found[1] }, part) : part;
  });
}

function thumb(shown, answer, rating, label) {
  const made = el("button", { class: "quiet small", type: "button", "aria-label": label, title: label,
    "aria-pressed": answer.rating === rating ? "true" : "false" }, el("span", { class: `thumb ${rating}`, "aria-hidden": "true" }));
  made.addEventListener("click", async () => {
    for (const other of shown.under.querySelectorAll("[aria-pressed]")) other.setAttribute("aria-pressed", String(other === made));
    await call("POST", "/api/feedback", { message_id: answer.message_id, rating });
    say(t("thanks"));
    shown.root.querySelector(".reason")?.remove();
    if (rating === "down") shown.root.append(reason(answer));
  });
  return made;
}

function reason(answer) {
  const input = el("input", { type: "text", maxlength: 2000, "aria-label": t("whyBad"), placeholder: t("whyBad") });
  const made = el("form", { class: "reason" }, input, el("button", { type: "submit" }, t("keep")));
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    await call("POST", "/api/feedback", { message_id: answer.message_id, rating: "down", reason: input.value });
    made.replaceChildren(t("thanks"));
  });
  setTimeout(() => input.focus());
  return made;
}

function scrollDown() { $("main").scrollTop = $("main").scrollHeight; }
