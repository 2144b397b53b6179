"use strict";
// One picture, and what can be done with it. Nothing is drawn from markup: every text goes in as text.
const at = id => document.getElementById(id);
const TABS = ["chat", "ask", "caption", "classify", "search", "draw"];
let language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
let model = null;
let picture = null; // {address: data URI, url: blob URL}
let heat = null;
const LEAST_SHOWN = 3; // pictures that are shown where nothing fits
let takes = 0; // pictures that were chosen: reading one takes time, and the last choice counts
let example = false; // whether the picture is the run's own example
const STRONGEST = 170, TINT = [214, 0, 108]; // of 255: under the strongest tint the picture can still be made out

const word = name => WORDS[language][name] ?? name;
const size = () => model?.index_size ?? 0;
const capital = name => name[0].toUpperCase() + name.slice(1);

function make(tag, text = "", kind = "") {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function speak() {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const one of document.querySelectorAll("[data-word]")) one.textContent = word(one.dataset.word);
  for (const one of document.querySelectorAll("[data-word-placeholder]")) one.placeholder = word(one.dataset.wordPlaceholder);
  for (const one of document.querySelectorAll("[data-word-label]")) one.setAttribute("aria-label", word(one.dataset.wordLabel));
  at("language").textContent = word("other");
  at("language").lang = language === "zh" ? "en" : "zh-Hans";
  at("picture").alt = word("picture");
  tell(null);
  if (model) abilities();
}

// Says a problem beside the button that caused it, and takes back what was said before.
function tell(text, place = "problem") {
  for (const one of document.querySelectorAll(".problem")) one.hidden = true;
  at(place).hidden = !text;
  at(place).textContent = text ?? "";
}

async function call(path, body) {
  let answer, said;
  try {
    answer = await fetch(path, {method: body ? "POST" : "GET", headers: {"Content-Type": "application/json"}, body: body && JSON.stringify(body)});
    said = await answer.json();
  } catch {
    throw new Error(word("offline"));
  }
  if (answer.ok) return said;
  const {code, message} = said.error;
  if (code.startsWith("image_")) throw new Error(`${word("image")} ${message}`);
  throw new Error(WORDS[language][code] ?? message);
}

// --- what the model can do ---------------------------------------------------------------------------------

function abilities() {
  const chosen = document.querySelector('[role="tab"][aria-selected="true"]')?.dataset.tab;
  const possible = TABS.filter(tab => model.can[tab]);
  at("model").textContent = model.id;
  knows();
  at("tabs").replaceChildren(...possible.map(tab => {
    const button = make("button", word("tab" + capital(tab)));
    Object.assign(button, {type: "button", id: `tab-${tab}`});
    button.dataset.tab = tab;
    button.setAttribute("role", "tab");
    button.setAttribute("aria-controls", `panel-${tab}`);
    button.addEventListener("click", () => choose(tab));
    button.addEventListener("keydown", event => {
      const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      if (!step) return;
      const next = possible[(possible.indexOf(tab) + step + possible.length) % possible.length];
      choose(next);
      at(`tab-${next}`).focus();
    });
    return button;
  }));
  at("cannot").replaceChildren(...TABS.filter(tab => !model.can[tab]).map(tab => make("li", word("cannot" + capital(tab)))));
  const known = document.querySelector('input[name="language"]:checked')?.value;
  const legend = at("caption-languages").querySelector("legend");
  at("caption-languages").replaceChildren(legend, ...model.languages.map((one, number) => {
    const label = make("label", "", "check"), input = make("input");
    Object.assign(input, {type: "radio", name: "language", value: one, checked: known ? one === known : number === 0});
    label.append(input, make("span", word(one)));
    return label;
  }));
  at("caption-meaning").dataset.word = "caption" + capital(model.caption_confidence ?? "words");
  at("caption-meaning").textContent = word(at("caption-meaning").dataset.word);
  if (model.classes.length && !at("labels").value) at("labels").value = model.classes.join("\n");
  at("rerank-line").hidden = !["matching", "captioning"].some(task => model.tasks.includes(task));
  choose(possible.includes(chosen) ? chosen : possible[0]);
}

// --- what the model knows, and words to try --------------------------------------------------------------------

function knows() {
  const facts = [
    ["factCan", TABS.filter(tab => model.can[tab]).map(tab => word("tab" + capital(tab))).join(word("comma"))],
    ["factLanguages", model.languages.map(word).join(word("comma"))],
    ["factData", word("trained")(model.trained_on)],
    ["factIndex", size() ? word("pictures")(size()) : ""],
  ].filter(([, text]) => text);
  at("facts").replaceChildren(...facts.map(([name, text]) => {
    const fact = make("div");
    fact.append(make("dt", word(name)), make("dd", text));
    return fact;
  }));
  at("knows").hidden = false;
  const {questions = [], texts = [], others = []} = model.example ?? {};
  at("question").placeholder = questions[0] ?? word("questionExample");
  at("query").placeholder = texts[0] ?? word("queryExample");
  at("prompt").placeholder = texts[0] ?? word("promptExample");
  at("draw-guidance").placeholder = model.drawing?.sampling.guidance ?? "";
  at("draw-best").hidden = !model.drawing?.ranks;
  chips("prompts", texts, "prompt", "panel-draw");
  chips("questions", questions, "question", "panel-ask");
  chips("queries", size() ? [...texts, ...others].slice(0, 3) : [], "query", "panel-search");
  if (example) at("file-name").textContent = word("example");
}

function chips(list, texts, field, form) {
  at(list).replaceChildren(...texts.map(text => {
    const button = make("button", text, "chip");
    button.type = "button";
    button.addEventListener("click", () => {
      at(field).value = text;
      at(form).requestSubmit();
    });
    return button;
  }));
}

async function openExample() {
  if (!model.example || takes) return;
  const answer = await fetch(model.example.picture);
  const file = answer.ok ? await answer.blob() : null;
  if (takes || !await take(file)) return;
  example = true;
  at("file-name").textContent = word("example");
}

function choose(tab) {
  document.body.dataset.tab = tab;
  if (tab === "classify" || tab === "search") show(null);
  for (const one of TABS) at(`panel-${one}`).hidden = one !== tab;
  for (const one of document.querySelectorAll('[role="tab"]')) {
    one.setAttribute("aria-selected", one.dataset.tab === tab);
    one.tabIndex = one.dataset.tab === tab ? 0 : -1;
  }
  tell(null);
}

// --- the picture -------------------------------------------------------------------------------------------

async function take(file) {
  if (!file) return false;
  const mine = ++takes;
  const address = await new Promise(done => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.readAsDataURL(file);
  });
  if (mine !== takes) return false;
  if (picture) URL.revokeObjectURL(picture.url);
  example = false;
  // A file without a known ending has no type of its own; the server looks at the content anyway.
  picture = {address: address.replace(/^data:(?!image\/)[^,]*,/, "data:image/unknown;base64,"), url: URL.createObjectURL(file)};
  at("picture").src = picture.url;
  at("file-name").textContent = file.name ?? "";
  at("shown").hidden = false;
  at("invite").hidden = true;
  for (const list of ["answers", "captions", "classes"]) at(list).replaceChildren();
  show(null);
  tell(null);
  return true;
}

// Tints what was looked at, the more the stronger; the rest of the picture stays as it is.
function show(map) {
  heat = map;
  const canvas = at("heat"), image = at("picture");
  canvas.hidden = at("legend").hidden = !map;
  if (!map || !image.naturalWidth) return;
  at("legend-frame").hidden = map.covers === "whole";
  const rows = map.grid.length, columns = map.grid[0].length, most = Math.max(...map.grid.flat());
  const small = make("canvas");
  small.width = columns;
  small.height = rows;
  const pixels = small.getContext("2d").createImageData(columns, rows);
  map.grid.flat().forEach((share, n) => pixels.data.set([...TINT, Math.round(STRONGEST * share / most)], 4 * n));
  small.getContext("2d").putImageData(pixels, 0, 0);
  const {clientWidth: width, clientHeight: height} = image;
  canvas.width = width;
  canvas.height = height;
  const brush = canvas.getContext("2d"), side = Math.min(width, height);
  const [x, y, w, h] = map.covers === "whole" ? [0, 0, width, height] : [(width - side) / 2, (height - side) / 2, side, side];
  brush.imageSmoothingQuality = "high";
  brush.drawImage(small, x, y, w, h);
  if (map.covers === "whole") return;
  brush.strokeStyle = `rgb(${TINT})`;
  brush.lineWidth = 2;
  brush.setLineDash([6, 5]);
  brush.strokeRect(x + 1, y + 1, w - 2, h - 2);
}

// --- answers -----------------------------------------------------------------------------------------------

function bar(name, share) {
  const line = make("div", "", "bar"), track = make("div", "", "track"), fill = make("div", "", "fill");
  const label = make("span", name);
  label.title = name;
  fill.style.width = `${(100 * share).toFixed(1)}%`;
  track.append(fill);
  line.append(label, track, make("span", `${(100 * share).toFixed(1)}%`));
  return line;
}

// A line where the picture or the text lies outside of what the model was trained on.
function outside(domain) {
  if (!domain?.is_outside) return [];
  const {image_distance: image, text_distance: text, unknown_words: unknown} = domain;
  const parts = [];
  if (image > 1) parts.push(word("farImage")(image.toFixed(1)));
  if (text > 1) parts.push(word("farText")(text.toFixed(1), unknown.slice(0, 8)));
  return [make("p", word("outside")(parts), "outside")];
}

function answer(list, question, title, bars) {
  const item = make("li");
  if (question) item.append(make("p", question, "quiet"));
  item.append(make("h3", title), ...bars);
  at(list).prepend(item);
  while (at(list).children.length > 20) at(list).lastChild.remove();
}

function work(id, task) {
  at(id).addEventListener("submit", async event => {
    event.preventDefault();
    const button = at(id).querySelector('[type="submit"]'), name = button.textContent;
    if (button.disabled) return;
    tell(null);
    button.disabled = true;
    button.textContent = word("working");
    try {
      await task();
    } catch (problem) {
      tell(problem.message, id.replace("panel", "problem"));
    } finally {
      button.disabled = false;
      button.textContent = button.dataset.word ? word(button.dataset.word) : name;
    }
  });
}

function needed(isThere, name) {
  if (!isThere) throw new Error(word(name));
}

work("panel-ask", async () => {
  needed(picture, "needPicture");
  const question = at("question").value.trim();
  needed(question, "needWords");
  const body = {image: picture.address, question, heat_map: at("ask-heat").checked};
  const [said] = (await call("/v1/ask", body)).answers;
  answer("answers", question, said.abstain_reasons.length ? `${said.answer} (${word("sure")})` : said.answer,
    [...outside(said.domain), ...said.answers.map(one => bar(one.answer, one.probability))]);
  show(said.heat_map);
});

work("panel-caption", async () => {
  needed(picture, "needPicture");
  const chosen = document.querySelector('input[name="language"]:checked')?.value ?? "";
  const body = {image: picture.address, language: chosen, heat_map: at("caption-heat").checked};
  const [said] = (await call("/v1/caption", body)).captions;
  answer("captions", "", said.caption, [...outside(said.domain), bar(word(said.language), said.confidence)]);
  show(said.heat_map);
});

work("panel-classify", async () => {
  needed(picture, "needPicture");
  const labels = [...new Set(at("labels").value.split(/[\n,，、;；]/).map(one => one.trim()).filter(one => one))];
  needed(labels.length > 1, "needLabels");
  const [said] = (await call("/v1/classify", {image: picture.address, labels})).classes;
  at("classes").replaceChildren();
  answer("classes", "", said.label, [...outside(said.domain), ...said.labels.map(one => bar(one.label, one.probability))]);
  show(null);
});

async function search(body) {
  const {hits, weak} = await call("/v1/search", {...body, count: 24, rerank: at("rerank").checked});
  at("found").textContent = hits.length ? word("found")(hits.length) : word("none");
  at("weak").hidden = !weak;
  at("hits").replaceChildren(...hits.map((hit, place) => {
    const item = make("li"), button = make("button"), image = make("img");
    Object.assign(button, {type: "button", title: word("use")});
    Object.assign(image, {src: hit.picture, alt: hit.id, loading: "lazy"});
    const told = hit.score === null ? hit.similarity.toFixed(3) : `${(100 * hit.score).toFixed(1)}%`;
    button.append(image, make("span", hit.fits === false || weak ? `${told} · ${word("weakHit")}` : told));
    button.addEventListener("click", async () => take(await (await fetch(hit.picture)).blob()));
    item.append(button);
    item.hidden = weak ? place >= LEAST_SHOWN : hit.fits === false;
    return item;
  }));
  const left = at("hits").querySelectorAll("[hidden]").length;
  at("more").hidden = !left;
  at("more").textContent = word("more")(left);
}

at("more").addEventListener("click", () => {
  for (const one of at("hits").children) one.hidden = false;
  at("more").hidden = true;
});

work("panel-search", async () => {
  const text = at("query").value.trim();
  needed(text, "needWords");
  await search({text});
});

at("by-picture").addEventListener("click", async () => {
  tell(null);
  try {
    needed(picture, "needPicture");
    const text = at("query").value.trim();
    await search({image: picture.address, ...(text && {text})});
  } catch (problem) {
    tell(problem.message, "problem-search");
  }
});

// --- hands -------------------------------------------------------------------------------------------------

const isTalking = () => document.body.dataset.tab === "chat"; // images then belong to the next words
at("file").addEventListener("change", event => {
  take(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("paste", event => {
  const files = [...event.clipboardData.files].filter(one => one.type.startsWith("image/"));
  if (isTalking()) attach(files);
  else if (files.length) take(files[0]);
});
for (const kind of ["dragover", "drop", "dragleave"]) {
  document.addEventListener(kind, event => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    at("panel-chat").classList.toggle("over", kind === "dragover");
    if (kind !== "drop") return;
    if (isTalking()) attach([...event.dataTransfer.files]);
    else take(event.dataTransfer.files[0]);
  });
}
at("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  speak();
});
at("picture").addEventListener("load", () => show(heat));
addEventListener("resize", () => show(heat));

speak();
call("/v1/models").then(said => {
  model = said.data[0];
  abilities();
  return openExample();
}).catch(problem => tell(problem.message));
