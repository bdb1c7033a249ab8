// What the page says, in two languages.

const WORDS = {
  en: {
    skip: "Skip to the question", tools: "Tools", feeds: "Feeds", documents: "Documents", settings: "Settings",
    language: "Language", theme: "Light or dark", sessions: "Conversations", newTalk: "New conversation",
    searchMemory: "Search what you said", forgetAll: "Forget everything", sureForget: "Forget all conversations? This cannot be undone.",
    sureDrop: "Forget this conversation?", loginTitle: "Open the link from the terminal",
    loginText: "This page belongs to this machine's owner. Open the link that flower-client printed at its start, or paste its token here.",
    token: "Token", enter: "Enter", wrongToken: "This is not the token: open the link again.",
    welcome: "What would you like to know?", knows: "{docs} texts of yours can be searched. Answers quote them and say where they stand. Nothing you write here leaves this machine.",
    knowsOne: "One text of yours can be searched. Answers quote it and say where they stand. Nothing you write here leaves this machine.",
    knowsNothing: "No texts can be searched yet: add feeds or drop a document, and ask about them.",
    conversation: "Conversation", useSources: "Look into my sources", writesWith: "The model writes as", theNetwork: "the network", theBase: "the base alone", export: "Export", ask: "Ask something", send: "Ask", stop: "Stop",
    sources: "Sources", sourcesHint: "The sources of an answer stand here, with the sentence that matched.", why: "Why this answer",
    close: "Close", you: "You", answer: "Answer", thinking: "Searching and thinking", done: "The answer is there", stopped: "Stopped",
    good: "Good answer", bad: "Bad answer", whyBad: "What was wrong? (stays on this machine)", keep: "Keep", thanks: "Kept at home. Thank you.",
    anyway: "Answer anyway", quoted: "quoted", written: "written by the model", unknown: "not in your sources",
    suspicious: "reads like orders to a machine; only quoted here", uncited: "not cited", unsupported: "not found in the sources",
    matched: "source matched automatically", style: "Style", model: "Model", adapter: "Adapter", noAdapter: "none", latency: "Time", firstWord: "First word after",
    tokens: "Tokens read and written", terms: "Searched for", found: "Searched in", passages: "passages", passage: "passage", chance: "Chance that the sources know",
    score: "score", cosine: "cosine", lost: "The connection was lost.", busy: "Too many questions wait; try again in a moment.",
    error: "That did not work", feedUrl: "Address (RSS or Atom)", feedName: "Name", feedTopics: "Topics, such as health;climate", feedLanguage: "Language",
    feedTrain: "May be learnt from", add: "Add", tryFeed: "Try it", trying: "Reading it once…", newest: "newest", nothingKept: "Looked at once; nothing of it is kept until you add it.", notWellFormed: "Not well-formed", remove: "Remove", ingest: "Read the feeds now", ingesting: "Reading the feeds…",
    ingested: "{new} new, {seen} seen, {failed} failed", noFeeds: "No feeds yet. Add one above, or begin with well-known public ones:", starter_es: "Some in Spanish", starter_en: "Some in English", feedAdded: "Added; read it now, or it comes with the next reading.", starterAdded: "Added; remove those you do not want, then read them.", entries: "entries", lastRead: "read", never: "not read yet",
    drop: "Drop a file here, or choose one: txt, md, html, pdf, docx, jsonl, up to 10 MB", noDocuments: "No documents yet.",
    uploading: "Reading…", uploaded: "“{title}” can be searched.", chunks: "passages", save: "Save", back: "Undo the last change", saved: "Saved; the next answer uses it.",
    temperature: "Temperature", top_p: "Top p", top_k: "Top k", repetition_penalty: "Repetition penalty", max_new_tokens: "Longest answer (tokens)",
    rag_top_k: "Passages", rag_min_score: "Least share of the best score", rag_max_chars: "Characters of passages (0: no limit)",
    node: "This node", running: "runs", notRunning: "does not run", joined: "belongs to a federation", notJoined: "on its own", version: "Global adapter",
    lastRound: "Last round", nextRound: "Next round", nextUnknown: "the operator decides", handed: "Handed over last", noVersion: "none yet",
    texts: "Texts", software: "Program", memory: "Remembered messages", nothing: "Nothing found.", log: "Log out",
  },
  es: {
    skip: "Ir a la pregunta", tools: "Herramientas", feeds: "Canales", documents: "Documentos", settings: "Ajustes",
    language: "Idioma", theme: "Claro u oscuro", sessions: "Conversaciones", newTalk: "Nueva conversación",
    searchMemory: "Busca en lo que dijiste", forgetAll: "Olvidar todo", sureForget: "¿Olvidar todas las conversaciones? No se puede deshacer.",
    sureDrop: "¿Olvidar esta conversación?", loginTitle: "Abre el enlace del terminal",
    loginText: "Esta página es de quien usa este equipo. Abre el enlace que flower-client mostró al arrancar, o pega aquí su clave.",
    token: "Clave", enter: "Entrar", wrongToken: "No es la clave: abre otra vez el enlace.",
    welcome: "¿Qué te gustaría saber?", knows: "Se puede buscar en {docs} textos tuyos. Las respuestas los citan y dicen dónde están. Nada de lo que escribas aquí sale de este equipo.",
    knowsOne: "Se puede buscar en un texto tuyo. Las respuestas lo citan y dicen dónde está. Nada de lo que escribas aquí sale de este equipo.",
    knowsNothing: "Todavía no hay textos donde buscar: añade canales o suelta un documento, y pregunta por ellos.",
    conversation: "Conversación", useSources: "Mirar en mis fuentes", writesWith: "El modelo escribe como", theNetwork: "la red", theBase: "la base sola", export: "Exportar", ask: "Pregunta algo", send: "Preguntar", stop: "Parar",
    sources: "Fuentes", sourcesHint: "Aquí están las fuentes de una respuesta, con la frase que coincidió.", why: "Por qué esta respuesta",
    close: "Cerrar", you: "Tú", answer: "Respuesta", thinking: "Buscando y pensando", done: "Ya está la respuesta", stopped: "Parada",
    good: "Buena respuesta", bad: "Mala respuesta", whyBad: "¿Qué falló? (se queda en este equipo)", keep: "Guardar", thanks: "Guardado en casa. Gracias.",
    anyway: "Responder de todos modos", quoted: "citada", written: "escrita por el modelo", unknown: "no está en tus fuentes",
    suspicious: "parece dar órdenes a una máquina; aquí solo se cita", uncited: "no citada", unsupported: "no se encuentra en las fuentes",
    matched: "fuente asociada automáticamente", style: "Estilo", model: "Modelo", adapter: "Adaptador", noAdapter: "ninguno", latency: "Tiempo", firstWord: "Primera palabra a los",
    tokens: "Tokens leídos y escritos", terms: "Se buscó", found: "Se buscó en", passages: "pasajes", passage: "pasaje", chance: "Probabilidad de que las fuentes lo sepan",
    score: "puntos", cosine: "coseno", lost: "Se perdió la conexión.", busy: "Esperan demasiadas preguntas; prueba dentro de un momento.",
    error: "No funcionó", feedUrl: "Dirección (RSS o Atom)", feedName: "Nombre", feedTopics: "Temas, como salud;clima", feedLanguage: "Idioma",
    feedTrain: "Se puede aprender de él", add: "Añadir", tryFeed: "Probar", trying: "Leyéndolo una vez…", newest: "la más nueva", nothingKept: "Solo se ha mirado; no se guarda nada hasta que lo añadas.", notWellFormed: "Mal formado", remove: "Quitar", ingest: "Leer los canales ahora", ingesting: "Leyendo los canales…",
    ingested: "{new} nuevas, {seen} vistas, {failed} canales fallidos", noFeeds: "Todavía no hay canales. Añade uno arriba, o empieza con algunos públicos y conocidos:", starter_es: "Algunos en español", starter_en: "Algunos en inglés", feedAdded: "Añadido; léelo ahora, o llegará con la próxima lectura.", starterAdded: "Añadidos; quita los que no quieras y léelos.", entries: "entradas", lastRead: "leído", never: "sin leer",
    drop: "Suelta aquí un archivo, o elígelo: txt, md, html, pdf, docx, jsonl, hasta 10 MB", noDocuments: "Todavía no hay documentos.",
    uploading: "Leyendo…", uploaded: "Ya se puede buscar en «{title}».", chunks: "pasajes", save: "Guardar", back: "Deshacer el último cambio", saved: "Guardado; lo usa la próxima respuesta.",
    temperature: "Temperatura", top_p: "Top p", top_k: "Top k", repetition_penalty: "Penalización por repetir", max_new_tokens: "Respuesta más larga (tokens)",
    rag_top_k: "Pasajes", rag_min_score: "Parte mínima de la mejor puntuación", rag_max_chars: "Caracteres de pasajes (0: sin límite)",
    node: "Este nodo", running: "en marcha", notRunning: "parado", joined: "pertenece a una federación", notJoined: "por su cuenta", version: "Adaptador global",
    lastRound: "Última ronda", nextRound: "Próxima ronda", nextUnknown: "la decide el operador", handed: "Última entrega", noVersion: "todavía ninguno",
    texts: "Textos", software: "Programa", memory: "Mensajes recordados", nothing: "No se encontró nada.", log: "Salir",
  },
};

let now = localStorage.getItem("language") || ((navigator.language || "en").startsWith("es") ? "es" : "en");
if (!(now in WORDS)) now = "en";

export const language = () => now;

export function t(key, facts = {}) {
  return WORDS[now][key].replace(/\{(\w+)\}/g, (_whole, name) => String(facts[name]));
}

export function setLanguage(code) {
  now = code;
  localStorage.setItem("language", code);
  show();
}

export function show(root = document) {
  document.documentElement.lang = now;
  for (const place of root.querySelectorAll("[data-t]")) place.textContent = t(place.dataset.t);
  for (const place of root.querySelectorAll("[data-t-label]")) place.setAttribute("aria-label", t(place.dataset.tLabel));
  for (const place of root.querySelectorAll("[data-t-placeholder]")) place.placeholder = t(place.dataset.tPlaceholder);
}

export const date = (value) => new Date(value).toLocaleString(now, { dateStyle: "medium", timeStyle: "short" });
export const number = (value, digits = 2) => Number(value).toLocaleString(now, { maximumFractionDigits: digits });
export const tongue = (code) => new Intl.DisplayNames([now], { type: "language" }).of(code);
export const passages = (count) => `${number(count)} ${t(count === 1 ? "passage" : "passages")}`;
