// Beside an answer: its sources, with the sentence that matched, and why it is as it is.
import { call } from "./api.js";
import { $, el, link } from "./dom.js";
import { number, passages, t } from "./words.js";

export function showSources(answer) {
  const place = $("beside");
  place.classList.remove("open");
  const close = el("button", { class: "quiet small only-narrow", type: "button", "aria-label": t("close"), onclick: () => place.classList.remove("open") }, "✕");
  place.replaceChildren(el("div", { class: "head" }, el("h2", {}, t("sources")), close));
  if (!answer || !answer.sources.length) place.append(el("p", { class: "hint" }, t("sourcesHint")));
  for (const source of answer?.sources ?? []) place.append(card(source));
  if (answer?.metrics) place.append(el("h3", {}, t("why")), why(answer));
}

// On a narrow screen it lies over the conversation.
export function reveal() {
  $("beside").classList.add("open");
  $("beside").focus({ preventScroll: true });
}

export function aim(n) {
  $("beside").classList.add("open");
  for (const shown of document.querySelectorAll(".source")) shown.classList.toggle("aimed", shown.id === `source-${n}`);
  $(`source-${n}`)?.scrollIntoView({ block: "center" });
}

function card(source) {
  const quote = el("p", { class: "quote" }, el("mark", {}, source.quote));
  const from = [source.feed, source.published.slice(0, 10)].filter(Boolean).join(" · ");
  const made = el("article", { class: source.is_cited ? "source" : "source uncited", id: `source-${source.n}` },
    el("div", { class: "title" }, el("span", { class: "number" }, `[${source.n}]`), link(source.url, source.title || "—")),
    el("div", { class: "from" }, from + (source.is_cited ? "" : ` · ${t("uncited")}`)),
    source.is_suspicious ? el("div", { class: "warning" }, t("suspicious")) : null, quote);
  if (!source.document_id.startsWith("memory:")) around(source, quote);
  return made;
}

async function around(source, quote) {
  const query = new URLSearchParams({ document_id: source.document_id, start: source.start, end: source.end });
  try {
    const found = await call("GET", `/api/passage?${query}`);
    quote.prepend(found.before);
    quote.append(found.after);
  } catch { /* the quotation stands alone */ }
}

function why(answer) {
  const { metrics, usage, model } = answer;
  const rows = [
    [t("style"), answer.style_reason || answer.style],
    [t("model"), model?.base || "—"],
    [t("adapter"), model?.adapter || t("noAdapter")],
    [t("terms"), metrics.terms],
    [t("found"), metrics.chunks === undefined ? null : passages(metrics.chunks)],
    [t("chance"), metrics.p_answerable === undefined ? null : `${number(100 * metrics.p_answerable, 0)} %`],
    [t("latency"), usage ? `${number(usage.latency_ms, 0)} ms` : null],
    [t("firstWord"), usage ? `${number(usage.ttft_ms, 0)} ms` : null],
    [t("tokens"), usage ? `${number(usage.prompt_tokens)} + ${number(usage.answer_tokens)}` : null],
  ];
  for (const source of answer.sources) {
    const cosine = source.cosine === null ? "" : ` · ${t("cosine")} ${number(source.cosine)}`;
    rows.push([`[${source.n}]`, `${t("score")} ${number(source.score)} · BM25 ${number(source.bm25)}${cosine}`]);
  }
  const body = el("tbody");
  for (const [name, value] of rows) {
    if (value) body.append(el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, String(value))));
  }
  return el("table", { class: "figures" }, body);
}
