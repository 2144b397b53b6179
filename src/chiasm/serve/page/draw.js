"use strict";
// Drawing: a prompt, and images that grow row by row while they are drawn. Every text goes in as text.
const MOST_DRAWN = 8, MOST_KEPT = 64; // images of one request; images that stay on the page
const REMARKS = [ // sentences of the server, and our words for them
  [/^(\d+) tokens, of which the model reads the first (\d+)$/, "drawCut"],
  [/^(\d+) of (\d+) tokens are unknown to the model$/, "drawUnread"],
];
let drawn = null; // AbortController of the request that is being drawn
let start = null; // data URI of the image whose upper half is kept

// What a field holds: a number in a range, or null where it is empty.
function number(id, least, most, isWhole) {
  const text = at(id).value.trim();
  if (!text && !at(id).validity.badInput) return null;
  const value = Number(text);
  if (!text || !(value >= least && value <= most) || (isWhole && !Number.isInteger(value))) {
    at(id).focus();
    throw new Error(word("drawRange")(at(id).labels[0].textContent, least, most));
  }
  return value;
}

function asked() {
  const prompt = at("prompt").value.trim();
  needed(prompt, "needWords");
  const most = Math.min(MOST_DRAWN, limit("max_items"));
  const body = {prompt, stream: true, n: number("draw-number", 1, most, true) ?? 1};
  const best_of = model.drawing.ranks ? number("draw-best-of", body.n, limit("max_items"), true) : null;
  const seed = number("draw-seed", 0, Number.MAX_SAFE_INTEGER, true), guidance = number("draw-guidance", 0, 100, false);
  const given = Object.entries({best_of, seed, guidance, image: start}).filter(([, value]) => value !== null);
  return {...body, ...Object.fromEntries(given)};
}

// Keep the upper half of an image in what is drawn next; null begins with nothing.
function keep(source) {
  start = source;
  at("draw-start").hidden = !source;
  if (source) at("draw-start").querySelector("img").src = source;
}

// An empty place for an image of a prompt.
function canvas(prompt) {
  const item = make("li"), frame = make("div", "", "frame drawn"), image = make("img"), told = make("p", word("drawing"), "quiet small");
  const [width, height] = model.drawing.size.split("x");
  frame.style.aspectRatio = `${width} / ${height}`;
  image.alt = "";
  frame.append(image);
  item.append(frame, told);
  item.setAttribute("aria-busy", "true");
  return {item, image, told, prompt, start};
}

// A button that fills in the prompt of an image again; what else it fills in, `fill` does.
function refill(place, name, label, fill) {
  const button = make("button", word(name), "plain");
  button.type = "button";
  button.setAttribute("aria-label", label);
  button.addEventListener("click", () => {
    fill();
    at("prompt").value = place.prompt;
    at("prompt").focus();
  });
  return button;
}

function grow(place, one) {
  place.image.src = `data:image/png;base64,${one.b64_json}`;
  if (one.type === "image_generation.partial_image") {
    place.told.textContent = word("drawRows")(one.rows, model.drawing.grid[0]);
    return;
  }
  const {seed, probability} = one.chiasm;
  place.image.alt = word("drawnOf")(place.prompt);
  place.told.textContent = word("drawn")(seed, (100 * probability).toFixed(1));
  const link = make("a", word("drawSave"), "button plain");
  Object.assign(link, {href: place.image.src, download: `${place.prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}-${seed}.png`});
  link.setAttribute("aria-label", word("drawSaveOf")(seed));
  const again = refill(place, "drawSeed", word("drawSeedOf")(seed), () => {
    keep(place.start);
    at("draw-seed").value = seed;
    at("draw-number").value = 1;
    at("draw-best-of").value = "";
  });
  const vary = refill(place, "drawVary", word("drawVaryOf")(seed), () => {
    keep(place.image.src);
    at("draw-seed").value = "";
  });
  const line = make("div", "", "line");
  line.append(link, again, vary);
  place.item.append(line);
  place.item.setAttribute("aria-busy", "false");
}

// What of the prompt was not read, and how it is unlike those of training.
function remarks({remarks: said, domain}) {
  const unknown = domain?.unknown_words ?? [];
  const lines = domain?.is_outside ? outside(domain) : unknown.length ? [make("p", word("drawUnknown")(unknown.slice(0, 8)), "outside")] : [];
  at("draw-remarks").replaceChildren(...lines, ...said.map(one => {
    const [pattern, name] = REMARKS.find(([pattern]) => pattern.test(one)) ?? [];
    return make("p", name ? word(name)(...one.match(pattern).slice(1)) : one, "outside");
  }));
}

async function draw(body, places) {
  let answer;
  try {
    answer = await fetch("/v1/images/generations", {
      method: "POST", headers: {"Content-Type": "application/json"}, signal: drawn.signal, body: JSON.stringify(body),
    });
  } catch (problem) {
    throw problem.name === "AbortError" ? problem : new Error(word("offline"));
  }
  if (!answer.ok) throw new Error(complaint((await answer.json()).error));
  let left = places.length;
  for await (const one of events(answer)) {
    if (one.error) throw new Error(complaint(one.error));
    grow(places[one.image_index], one);
    if (one.type !== "image_generation.completed") continue;
    left -= 1;
    remarks(one.chiasm);
  }
  if (left) throw new Error(word("offline")); // the connection ended before the images
}

function drawing(is) {
  at("draw").hidden = is;
  at("draw-stop").hidden = !is;
  at("drawings").setAttribute("aria-busy", is);
}

at("panel-draw").addEventListener("submit", async event => {
  event.preventDefault();
  if (drawn) return;
  tell(null);
  at("draw-remarks").replaceChildren();
  let places = [];
  try {
    const body = asked();
    places = Array.from({length: body.n}, () => canvas(body.prompt));
    at("drawings").prepend(...places.map(one => one.item));
    drawn = new AbortController();
    drawing(true);
    await draw(body, places);
    at("draw-status").textContent = word("drawDone")(places.length);
  } catch (problem) {
    if (problem.name !== "AbortError") tell(problem.message, "problem-draw");
  } finally {
    for (const one of places) if (one.item.getAttribute("aria-busy") === "true") one.item.remove();
    while (at("drawings").children.length > MOST_KEPT) at("drawings").lastChild.remove();
    drawn = null;
    drawing(false);
  }
});
at("draw-stop").addEventListener("click", () => drawn?.abort());
at("draw-start-drop").addEventListener("click", () => {
  keep(null);
  at("prompt").focus();
});
