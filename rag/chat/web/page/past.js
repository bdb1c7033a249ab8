// Conversations there were, and search in what was said.
import { call } from "./api.js";
import { $, el } from "./dom.js";
import { beginTalk, currentSession, openTalk } from "./talk.js";
import { date, t } from "./words.js";

export async function showPast() {
  const query = $("query").value.trim();
  const rows = query
    ? (await call("GET", `/api/memory?${new URLSearchParams({ q: query })}`)).found
        .map((row) => ({ id: row.session_id, title: row.content, when: row.ts, isFound: true }))
    : (await call("GET", "/api/sessions")).map((row) => ({ id: row.id, title: row.title, when: row.updated }));
  $("sessions").replaceChildren(...rows.map(line));
  if (query && !rows.length) $("sessions").append(el("li", {}, t("nothing")));
}

function line(row) {
  const go = el("button", { class: "quiet go", type: "button", onclick: () => { closePast(); openTalk(row.id); } },
    el("span", {}, row.title || "—"), el("span", { class: "when" }, date(row.when * 1000)));
  const drop = el("button", { class: "quiet drop", type: "button", "aria-label": `${t("remove")}: ${row.title}` }, "✕");
  drop.addEventListener("click", async () => {
    if (!confirm(t("sureDrop"))) return;
    await call("DELETE", `/api/sessions/${row.id}`);
    if (row.id === currentSession()) beginTalk();
    showPast();
  });
  return el("li", { class: row.id === currentSession() ? "now" : "" }, go, row.isFound ? null : drop);
}

export function closePast() {
  $("past").classList.remove("open");
  $("open-past").setAttribute("aria-expanded", "false");
}
