// The page of a memory: adds, asks in three modes, shows what was used, deletes. Texts are never put in as HTML.
const $ = (id) => document.getElementById(id);
const PAGE = 60, SIDE = 320, AT_ONCE = 3;
const TITLES = { baseline: "without memory", rag: "items as text", comem: "items as memory" };
let key = sessionStorage.getItem("key") || "", model = "", shown = 0, query = "", askImage = null, asked = null;

// --- the server ---
async function call(method, path, body, signal) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  if (answer.status === 401) $("key-form").hidden = false;
  if (!answer.ok) {
    const said = await answer.json().catch(() => null);
    throw new Error(said?.error?.message || `${answer.status} ${answer.statusText}`);
  }
  return answer;
}
const json = async (...args) => (await call(...args)).json();

function alertUser(error) {
  const line = document.createElement("div");
  line.textContent = error.message || String(error);
  $("alerts").append(line);
  setTimeout(() => line.remove(), 12000);
}
const guarded = (work) => async (event) => {
  event?.preventDefault?.();
  try { await work(event); } catch (error) { alertUser(error); }
};

// --- items ---
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); thumbnail(entry.target); }
}, { rootMargin: "300px" });

async function thumbnail(box) {
  try {
    const blob = await (await call("GET", `/v1/memories/${encodeURIComponent(box.dataset.id)}/image?side=${SIDE}`)).blob();
    const image = new Image();
    image.alt = "";
    image.src = URL.createObjectURL(blob);
    image.onload = () => URL.revokeObjectURL(image.src);
    box.replaceChildren(image);
  } catch { box.textContent = "no image"; }
}

function itemCard(item) {
  const card = $("item-template").content.firstElementChild.cloneNode(true);
  const box = card.querySelector(".thumb"), facts = [];
  card.dataset.id = box.dataset.id = item.id;
  if (item.has_image) seen.observe(box); else box.textContent = "text";
  card.querySelector(".text").textContent = item.memory || item.metadata?.file || "(an image)";
  if (item.when) facts.push(item.when);
  if (item.score !== undefined) facts.push(`score ${item.score.toFixed(2)}`);
  if (item.attention !== undefined) {
    facts.push(`attention ${(100 * item.attention).toFixed(1)} %`);
    const meter = card.querySelector(".attention");
    meter.hidden = false;
    meter.title = "share of the answer's attention";
    meter.firstElementChild.style.width = `${Math.min(100, 100 * item.attention / (item.most || item.attention))}%`;
  }
  card.querySelector(".facts").textContent = facts.join(" · ");
  card.querySelector(".delete").onclick = guarded(() => remove(item.id));
  card.onkeydown = (event) => { if (event.key === "Delete") guarded(() => remove(item.id))(event); };
  return card;
}

async function remove(id) {
  await call("DELETE", `/v1/memories/${encodeURIComponent(id)}`);
  const inAnswer = [...document.querySelectorAll("#sources .item")].some((card) => card.dataset.id === id);
  for (const card of document.querySelectorAll(".item")) if (card.dataset.id === id) card.remove();
  shown = Math.max(0, shown - 1);
  await count();
  if (inAnswer && asked) await ask(asked);
}

async function count() {
  const { total } = await json("GET", "/v1/memories?limit=1");
  $("count").textContent = `${total.toLocaleString("en")} ${total === 1 ? "item" : "items"}`;
  return total;
}

async function list(anew) {
  if (anew) { shown = 0; $("items").replaceChildren(); }
  if (query) {
    const { results } = await json("POST", "/v1/memories/search", { query, top_k: PAGE });
    $("items").append(...results.map(itemCard));
    $("more").hidden = true;
    return;
  }
  const { results, total } = await json("GET", `/v1/memories?limit=${PAGE}&offset=${shown}`);
  $("items").append(...results.map(itemCard));
  shown += results.length;
  $("more").hidden = shown >= total;
}

// --- adding ---
const asUri = (file) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => failed(reader.error);
  reader.readAsDataURL(file);
});

async function dropped(transfer) {
  const files = [], entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const walk = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      files.push(Object.assign(file, { place: entry.fullPath }));
    } else {
      const reader = entry.createReader();
      for (;;) {
        const some = await new Promise((done, failed) => reader.readEntries(done, failed));
        if (!some.length) return;
        for (const each of some) await walk(each);
      }
    }
  };
  for (const entry of entries) await walk(entry);
  return files;
}

let stop = null;
async function add(files) {
  const place = (file) => file.place || file.webkitRelativePath || file.name;
  const stem = (file) => place(file).replace(/\.[^./]*$/, "");
  const texts = new Map(files.filter((file) => /\.txt$/i.test(file.name)).map((file) => [stem(file), file]));
  const images = files.filter((file) => file.type.startsWith("image/"));
  const paired = new Set(images.map(stem)), skipped = [];
  const work = [...images, ...[...texts].filter(([name]) => !paired.has(name)).map(([, file]) => file)];
  for (const file of files) if (!work.includes(file) && !texts.has(stem(file))) skipped.push(`${place(file)}: not an image`);
  let done = 0, added = 0, next = 0;
  stop = new AbortController();
  $("progress").hidden = false;
  const tell = () => {
    $("bar").max = Math.max(1, work.length);
    $("bar").value = done;
    $("said").textContent = `${done.toLocaleString("en")} of ${work.length.toLocaleString("en")}`;
  };
  const one = async (file) => {
    const body = { metadata: { file: place(file).replace(/^\//, "") } };
    if (file.type.startsWith("image/")) body.image = await asUri(file);
    const text = file.type.startsWith("image/") ? texts.get(stem(file)) : file;
    if (text) body.text = await text.text();
    await call("POST", "/v1/memories", body, stop.signal);
    added += 1;
  };
  const worker = async () => {
    while (next < work.length && !stop.signal.aborted) {
      const file = work[next++];
      try { await one(file); } catch (error) { if (!stop.signal.aborted) skipped.push(`${place(file)}: ${error.message}`); }
      done += 1;
      tell();
    }
  };
  tell();
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  $("said").textContent = `${added.toLocaleString("en")} added${skipped.length ? `, ${skipped.length.toLocaleString("en")} left out` : ""}`;
  $("stop").hidden = true;
  const details = $("skipped");
  details.hidden = !skipped.length;
  details.querySelector("summary").textContent = `${skipped.length} left out`;
  details.querySelector("ul").replaceChildren(...skipped.slice(0, 200).map((reason) => Object.assign(document.createElement("li"), { textContent: reason })));
  await Promise.all([count(), list(true)]);
}

// --- asking ---
function answerBox(mode) {
  const box = document.createElement("article");
  box.className = "answer";
  box.dataset.mode = mode;
  for (const [name, tag] of [["title", "h3"], ["said", "p"], ["cost", "p"]]) {
    const part = document.createElement(tag);
    part.className = name;
    box.append(part);
  }
  box.querySelector(".title").textContent = TITLES[mode];
  box.querySelector(".said").textContent = "…";
  return box;
}

async function answer(mode, request, box) {
  const start = performance.now();
  let first = null, text = "", usage = null, sources = null, rest = "";
  const body = { ...request, model: `${model}/${mode}`, stream: true, stream_options: { include_usage: true } };
  const reply = await call("POST", "/v1/chat/completions", body);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    rest += value;
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const chunk = JSON.parse(line.slice(6));
      if (chunk.error) throw new Error(chunk.error.message);
      const piece = chunk.choices?.[0]?.delta?.content;
      if (piece) { first ??= performance.now() - start; text += piece; box.querySelector(".said").textContent = text; }
      usage = chunk.usage || usage;
      sources = chunk.comem || sources;
    }
  }
  box.querySelector(".said").textContent = text || "(nothing)";
  const took = `${Math.round(first ?? performance.now() - start)} ms to the first word`;
  box.querySelector(".cost").textContent = `${usage.prompt_tokens} tokens read, ${sources.context_tokens} of them ${mode === "baseline" ? "knowledge" : "items"} · ${took}`;
  return sources.items;
}

async function ask(request) {
  asked = request;
  const modes = [...document.querySelectorAll("#modes input:checked")].map((box) => box.value);
  if (!modes.length) throw new Error("choose at least one way to answer");
  const boxes = modes.map(answerBox), found = {};
  $("answers").replaceChildren(...boxes);
  $("sources").replaceChildren();
  $("ask").disabled = true;
  for (const [n, mode] of modes.entries()) {  // one after the other, so that each time is its own
    try { found[mode] = await answer(mode, request, boxes[n]); } catch (error) {
      boxes[n].classList.add("bad");
      boxes[n].querySelector(".said").textContent = error.message;
    }
  }
  $("ask").disabled = false;
  const items = found.comem?.length ? found.comem : found.rag || [];
  if (!items.length) return;
  const title = Object.assign(document.createElement("h3"), { textContent: "What was remembered for it" });
  const grid = Object.assign(document.createElement("div"), { className: "grid" });
  const most = Math.max(...items.map((item) => item.attention || 0));
  grid.append(...items.map((item) => itemCard({ ...item, most })));
  $("sources").replaceChildren(title, grid);
}

async function showImage(file) {
  askImage = file ? await asUri(file) : null;
  $("ask-image").hidden = $("ask-clear").hidden = !askImage;
  if (askImage) $("ask-image").src = askImage;
}

function asks() {
  const question = $("question").value.trim();
  if (!question && !askImage) throw new Error("write a question, or choose an image");
  const content = [];
  if (askImage) content.push({ type: "image_url", image_url: { url: askImage } });
  content.push({ type: "text", text: question || "What is this?" });
  return { messages: [{ role: "user", content }], max_tokens: 64, memory: { k: Number($("k").value), attention: true } };
}

// --- what is clicked, typed and dropped ---
$("ask-form").onsubmit = guarded(() => ask(asks()));
$("question").onkeydown = (event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); $("ask-form").requestSubmit(); } };
$("ask-file").onchange = guarded((event) => showImage(event.target.files[0]));
$("ask-clear").onclick = guarded(() => { $("ask-file").value = ""; return showImage(null); });
$("add-files").onchange = $("add-folder").onchange = guarded(async (event) => {
  $("stop").hidden = false;
  await add([...event.target.files]);
  event.target.value = "";
});
$("stop").onclick = () => stop?.abort();
$("note-form").onsubmit = guarded(async () => {
  await call("POST", "/v1/memories", { text: $("note").value });
  $("note").value = "";
  await Promise.all([count(), list(true)]);
});
let typing = 0;
$("search").oninput = () => { clearTimeout(typing); typing = setTimeout(guarded(() => { query = $("search").value.trim(); return list(true); }), 250); };
$("search-form").onsubmit = (event) => event.preventDefault();
$("more").onclick = guarded(() => list(false));
new IntersectionObserver((entries) => { if (entries[0].isIntersecting && !$("more").hidden) guarded(() => list(false))(); }, { rootMargin: "200px" }).observe($("more"));
for (const [id, take] of [["add-drop", async (t) => { $("stop").hidden = false; await add(await dropped(t)); }], ["ask-drop", async (t) => showImage(t.files[0])]]) {
  const box = $(id);
  box.ondragover = (event) => { event.preventDefault(); box.classList.add("over"); };
  box.ondragleave = () => box.classList.remove("over");
  box.ondrop = guarded((event) => { box.classList.remove("over"); return take(event.dataTransfer); });
}
$("theme").onclick = () => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = (root.dataset.theme || (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
};
$("key-form").onsubmit = guarded(async () => {
  key = $("key").value;
  sessionStorage.setItem("key", key);
  await start();
  $("key-form").hidden = true;
});

async function start() {
  model = (await json("GET", "/v1/models")).data[0].id;
  $("model").textContent = model;
  await Promise.all([count(), list(true)]);
}
guarded(start)();
