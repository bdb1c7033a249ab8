// Puts the page together: login, theme, language, who reacts to what.
import { call } from "./api.js";
import { $, el } from "./dom.js";
import * as panels from "./panels.js";
import { closePast, showPast } from "./past.js";
import { showSources } from "./sources.js";
import { ask, beginTalk, currentSession, stop } from "./talk.js";
import { language, setLanguage, show, t } from "./words.js";

function theme(name) {
  document.documentElement.dataset.theme = name;
}

async function enter(token) {
  await call("POST", "/api/login", { token });
  await begin();
}

async function begin() {
  await state();
  $("login").hidden = true;
  $("empty").hidden = false;
  $("ask").hidden = $("past").hidden = $("beside").hidden = false;
  for (const id of ["open-feeds", "open-documents", "open-settings", "node"]) $(id).hidden = false;
  await showPast();
  showSources(null);
  $("message").focus();
}

async function state() {
  const held = await call("GET", "/api/health");
  if (!held.model) throw new Error("login");
  const parts = [held.model.adapter || held.model.base, held.node.joined ? (held.node.running ? t("running") : t("notRunning")) : t("notJoined")];
  $("node-text").textContent = parts.filter(Boolean).join(" · ");
  $("adapter-choice").hidden = !held.model.adapter;
  if (!held.model.adapter) $("adapter").value = "network";
  document.querySelector(".dot").className = `dot ${held.ready ? "good" : "bad"}`;
  $("welcome-text").textContent = held.rag.docs === 1 ? t("knowsOne") : held.rag.docs ? t("knows", { docs: held.rag.docs.toLocaleString(language()) }) : t("knowsNothing");
  $("notes").replaceChildren(...held.rag.notes.filter(() => held.rag.docs).map((text) => el("li", {}, text)));
}

function locked() {
  $("login").hidden = false;
  for (const id of ["empty", "ask", "past", "beside", "open-feeds", "open-documents", "open-settings", "node"]) $(id).hidden = true;
}

function words() {
  show();
  $("language").textContent = language() === "es" ? "EN" : "ES";
}

theme(localStorage.getItem("theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
words();
locked();

$("theme").addEventListener("click", () => {
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  localStorage.setItem("theme", document.documentElement.dataset.theme);
});
$("language").addEventListener("click", () => {
  setLanguage(language() === "es" ? "en" : "es");
  words();
  if ($("login").hidden) { state(); showPast(); if (!$("talk").childElementCount) showSources(null); }
});
$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try { await enter($("token").value.trim()); } catch { $("login-problem").textContent = t("wrongToken"); }
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const message = $("message").value.trim();
  if (!message || !$("stop").hidden) return;
  $("message").value = "";
  grow();
  ask(message).then(state);
});
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit(); }
});
function grow() {
  $("message").style.height = "auto";
  $("message").style.height = `${$("message").scrollHeight + 2}px`;
}
$("message").addEventListener("input", grow);
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !$("panel").open) stop(); });
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", () => { closePast(); beginTalk(); showPast(); $("message").focus(); });
$("export").addEventListener("click", () => {
  const made = el("a", { href: `/api/sessions/${currentSession()}/export.md?language=${language()}`, download: "" });
  made.click();
});
$("find").addEventListener("submit", (event) => { event.preventDefault(); showPast(); });
let typing = 0;
$("query").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(showPast, 250); });
$("forget").addEventListener("click", async () => {
  if (!confirm(t("sureForget"))) return;
  await call("DELETE", "/api/memory");
  beginTalk();
  showPast();
});
$("open-past").addEventListener("click", () => {
  const isOpen = $("past").classList.toggle("open");
  $("open-past").setAttribute("aria-expanded", String(isOpen));
});
$("panel-close").addEventListener("click", () => $("panel").close());
$("panel").addEventListener("close", () => { if ($("login").hidden) state(); });
$("open-feeds").addEventListener("click", () => panels.open(t("feeds"), panels.feeds));
$("open-documents").addEventListener("click", () => panels.open(t("documents"), panels.documents));
$("open-settings").addEventListener("click", () => panels.open(t("settings"), panels.settings));
$("node").addEventListener("click", () => panels.open(t("node"), panels.node));

const token = new URLSearchParams(location.hash.slice(1)).get("token");
if (token) history.replaceState(null, "", "/");
(token ? enter(token) : begin()).catch(() => {
  locked();
  if (token) $("login-problem").textContent = t("wrongToken");
});
