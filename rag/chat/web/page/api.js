// Requests to this server, and its server-sent events.

export class Refused extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

async function refusal(answer) {
  let detail = answer.statusText;
  try { detail = (await answer.json()).detail || detail; } catch { /* no JSON */ }
  return new Refused(answer.status, detail);
}

export async function call(method, path, content) {
  const facts = { method, headers: {}, credentials: "same-origin" };
  if (content instanceof FormData) facts.body = content;
  else if (content !== undefined) {
    facts.headers["Content-Type"] = "application/json";
    facts.body = JSON.stringify(content);
  }
  const answer = await fetch(path, facts);
  if (!answer.ok) throw await refusal(answer);
  const kind = answer.headers.get("Content-Type") || "";
  return kind.includes("json") ? answer.json() : answer.text();
}

// Asks, and calls on(name, data) for each event.
export async function stream(content, on, signal) {
  const answer = await fetch("/api/chat", {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...content, stream: true }), signal,
  });
  if (!answer.ok) throw await refusal(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    let end;
    while ((end = held.indexOf("\n\n")) >= 0) {
      const [first, second] = held.slice(0, end).split("\n");
      held = held.slice(end + 2);
      if (first.startsWith("event: ")) on(first.slice(7), JSON.parse(second.slice(6)));
    }
  }
}
