// Feeds, documents, settings, the node: each in one dialog.
import { call } from "./api.js";
import { $, el, link, say } from "./dom.js";
import { date, number, passages, t, tongue } from "./words.js";

const PARAMS = ["rag_top_k", "rag_min_score", "rag_max_chars", "temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens"];

export function open(title, fill) {
  $("panel-title").textContent = title;
  $("panel-body").replaceChildren();
  if (!$("panel").open) $("panel").showModal();
  fill($("panel-body")).catch((error) => $("panel-body").append(el("p", { class: "problem", role: "alert" }, error.message)));
}

const told = () => el("p", { role: "status" });

async function tried(place, work) {
  place.className = "";
  try { await work(); } catch (error) { place.className = "problem"; place.textContent = `${t("error")}: ${error.message}`; }
}

function field(name, facts = {}) {
  const input = el("input", { type: "text", ...facts });
  return { input, label: el("label", {}, t(name), input) };
}

export async function feeds(place) {
  const list = el("div", { id: "feed-list" }), status = told();
  const url = field("feedUrl", { type: "url", required: true, maxlength: 2000, id: "feed-url" });
  const name = field("feedName", { maxlength: 200 }), topics = field("feedTopics", { maxlength: 500 });
  url.label.className = "broad";
  const train = el("input", { type: "checkbox" });
  const now = el("button", { type: "button", id: "ingest", class: "second" }, t("ingest"));
  now.addEventListener("click", () => tried(status, async () => {
    now.disabled = true;
    status.textContent = t("ingesting");
    try {
      const came = await call("POST", "/api/feeds/ingest", {});
      status.textContent = t("ingested", { new: came.new, seen: came.seen, failed: came.failed.length }) + (came.note ? ` ${came.note}` : "");
      fill(list, await call("GET", "/api/feeds"));
    } finally { now.disabled = false; }
  }));
  const look = el("button", { type: "button", id: "feed-test", class: "second" }, t("tryFeed"));
  const form = el("form", { class: "grid two" }, url.label, name.label, topics.label,
    el("div", { class: "broad" }, el("label", {}, el("span", {}, train, " ", t("feedTrain")))), el("div", { class: "acts broad" }, el("button", { type: "submit" }, t("add")), look, now));
  look.addEventListener("click", () => {
    if (!url.input.reportValidity()) return;
    tried(status, async () => {
      look.disabled = true;
      status.textContent = t("trying");
      try {
        const found = await call("POST", "/api/feeds/test", { url: url.input.value });
        status.replaceChildren(trial(found));
      } finally { look.disabled = false; }
    });
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    tried(status, async () => {
      fill(list, await call("POST", "/api/feeds", { url: url.input.value, name: name.input.value, topics: topics.input.value, train: train.checked }));
      form.reset();
      status.textContent = t("feedAdded");
    });
  });
  place.append(form, status, list);
  fill(list, await call("GET", "/api/feeds"));

  function fill(into, rows) {
    now.hidden = !rows.length;
    into.replaceChildren(...rows.map((row) => {
      const facts = `${t("entries")}: ${number(row.entries)} · ${row.fetched_at ? `${t("lastRead")} ${date(row.fetched_at)}` : t("never")}`;
      const remove = el("button", { class: "quiet small danger", type: "button", "aria-label": `${t("remove")}: ${row.name}`,
        onclick: () => tried(status, async () => fill(into, await call("DELETE", `/api/feeds?${new URLSearchParams({ url: row.url })}`))) }, t("remove"));
      return el("div", { class: "row" }, el("div", {}, el("div", { class: "name" }, row.name), el("div", { class: "facts" }, link(row.url, row.url)),
        el("div", { class: "facts" }, facts), row.failure ? el("div", { class: "facts bad" }, row.failure) : null), remove);
    }));
    if (!rows.length) into.append(el("p", {}, t("noFeeds")), el("div", { class: "acts", id: "starter" }, starter("es"), starter("en")));
  }

  function starter(code) {
    const take = () => tried(status, async () => {
      fill(list, await call("POST", "/api/feeds/starter", { language: code }));
      status.textContent = t("starterAdded");
    });
    return el("button", { type: "button", class: "second", lang: code, onclick: take }, t(`starter_${code}`));
  }
}

function trial(found) {
  const facts = [`${t("entries")}: ${number(found.entries)}`, found.language && tongue(found.language), found.newest && `${t("newest")} ${date(found.newest)}`];
  return el("div", { class: "trial" }, el("div", { class: "name" }, found.title || found.url), el("div", { class: "facts" }, facts.filter(Boolean).join(" · ")),
    el("ul", {}, ...found.titles.map((title) => el("li", {}, title))), el("div", { class: "facts" }, t("nothingKept")),
    found.warning ? el("div", { class: "facts bad" }, `${t("notWellFormed")}: ${found.warning}`) : null);
}

export async function documents(place) {
  const list = el("div", { id: "document-list" }), status = told();
  const input = el("input", { type: "file", class: "unseen", id: "file", accept: ".txt,.md,.markdown,.html,.htm,.pdf,.docx,.jsonl" });
  const zone = el("label", { class: "zone", for: "file" }, t("drop"), input);
  const send = (file) => tried(status, async () => {
    status.textContent = t("uploading");
    const form = new FormData();
    form.append("file", file);
    const held = await call("POST", "/api/documents", form);
    status.textContent = t("uploaded", { title: held.title });
    fill(await call("GET", "/api/documents"));
  });
  input.addEventListener("change", () => { if (input.files[0]) send(input.files[0]); input.value = ""; });
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
  });
  place.append(zone, status, list);
  fill(await call("GET", "/api/documents"));

  function fill(rows) {
    list.replaceChildren(...rows.map((row) => el("div", { class: "row" },
      el("div", {}, el("div", { class: "name" }, row.title), el("div", { class: "facts" }, `${row.kind} · ${number(row.bytes / 1000, 1)} kB · ${t("chunks")}: ${number(row.chunks)}`)),
      el("button", { class: "quiet small danger", type: "button", "aria-label": `${t("remove")}: ${row.title}`,
        onclick: () => tried(status, async () => { await call("DELETE", `/api/documents/${row.id}`); fill(await call("GET", "/api/documents")); }) }, t("remove")))));
    if (!rows.length) list.append(el("p", {}, t("noDocuments")));
  }
}

export async function settings(place) {
  const status = told(), form = el("form"), grid = el("div", { class: "grid" });
  const inputs = {};
  const held = await call("GET", "/api/settings");
  for (const name of PARAMS) {
    const bounds = held.bounds[name];
    const whole = bounds.type === "integer";
    const made = field(name, { type: "number", step: whole ? 1 : "any", min: bounds.minimum ?? bounds.exclusiveMinimum, max: bounds.maximum, name });
    inputs[name] = made.input;
    grid.append(made.label);
  }
  const back = el("button", { type: "button", class: "quiet" }, t("back"));
  const fill = (now) => {
    for (const name of PARAMS) inputs[name].value = now.params[name];
    back.hidden = !now.previous;
    if (now.problem) { status.className = "problem"; status.textContent = now.problem; }
  };
  form.append(grid, el("div", { class: "acts" }, el("button", { type: "submit" }, t("save")), back), status);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    tried(status, async () => {
      const params = Object.fromEntries(PARAMS.map((name) => [name, Number(inputs[name].value)]));
      fill(await call("PUT", "/api/settings", { params }));
      status.textContent = t("saved");
    });
  });
  back.addEventListener("click", () => tried(status, async () => { fill(await call("POST", "/api/settings/rollback", {})); status.textContent = t("saved"); }));
  fill(held);
  place.append(form);
}

export async function node(place) {
  const held = await call("GET", "/api/health");
  const rows = [
    [t("node"), `${held.node.joined ? t("joined") : t("notJoined")}, ${held.node.running ? t("running") : t("notRunning")}`],
    [t("model"), held.model.base || "—"], [t("version"), held.node.adapter || t("noVersion")],
    ...(held.model.refused ? [[t("adapter"), held.model.refused]] : []),
    [t("lastRound"), held.node.last_round ? date(held.node.last_round) : "—"], [t("nextRound"), held.node.next_round || t("nextUnknown")],
    [t("handed"), held.node.handed_over ? date(held.node.handed_over) : "—"],
    [t("texts"), `${number(held.rag.docs)} (${passages(held.rag.chunks)})`], [t("memory"), number(held.memory.turns)], [t("software"), held.version],
  ];
  place.append(el("table", { class: "figures" }, el("tbody", {}, ...rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value))))));
  const leave = el("button", { type: "button", class: "quiet" }, t("log"));
  leave.addEventListener("click", async () => { await call("POST", "/api/logout", {}); location.reload(); });
  place.append(el("div", { class: "acts" }, leave));
  say(rows.map((row) => row.join(": ")).join(". "));
}
