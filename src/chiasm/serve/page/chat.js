"use strict";
// The conversation: messages as bubbles, several images, words as they are written. Every text goes in as text.
const MOST_SHOWN_PX = 1024; // longer sides are made smaller before they are sent: a conversation is sent whole each time
let said = []; // messages in OpenAI's shape
let shown = []; // images that go with the next words: {address: data URI, name}
let writing = null; // AbortController of the answer that is being written

const limit = name => model?.limits?.[name] ?? Infinity;
const imagesSaid = () => said.flatMap(one => Array.isArray(one.content) ? one.content : []).filter(one => one.type === "image_url").length;

function bubble(role, text, images = []) {
  const item = make("li", "", `bubble ${role}`);
  item.append(make("span", word(role === "user" ? "chatYou" : "chatModel"), "hidden"));
  if (images.length) {
    const row = make("div", "", "attached");
    for (const one of images) {
      const image = make("img");
      Object.assign(image, {src: one.address, alt: one.name || word("picture")});
      row.append(image);
    }
    item.append(row);
  }
  const words = make("p", text);
  item.append(words);
  at("talk").append(item);
  follow();
  return {item, words};
}

// Keeps the newest words in sight, unless the reader has scrolled up.
function follow() {
  const talk = at("talk");
  if (talk.scrollHeight - talk.scrollTop - talk.clientHeight < 120) talk.scrollTop = talk.scrollHeight;
}

function attachments() {
  at("attached").replaceChildren(...shown.map((one, place) => {
    const item = make("li"), image = make("img"), button = make("button", "×", "plain");
    Object.assign(image, {src: one.address, alt: one.name || word("picture")});
    button.type = "button";
    button.setAttribute("aria-label", word("chatRemove")(one.name || word("picture")));
    button.addEventListener("click", () => {
      shown.splice(place, 1);
      attachments();
      at("words").focus();
    });
    item.append(image, button);
    return item;
  }));
}

async function smaller(file) {
  const image = await createImageBitmap(file);
  const scale = Math.min(1, MOST_SHOWN_PX / Math.max(image.width, image.height));
  const canvas = make("canvas");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return scale < 1 ? canvas.toDataURL("image/jpeg", .9) : canvas.toDataURL("image/png");
}

async function attach(files) {
  tell(null);
  for (const file of files) {
    if (shown.length + imagesSaid() >= limit("max_chat_images")) {
      tell(word("chatImages")(limit("max_chat_images")), "problem-chat");
      break;
    }
    try {
      shown.push({address: await smaller(file), name: file.name ?? ""});
    } catch {
      tell(word("chatNoImage")(file.name ?? ""), "problem-chat");
    }
  }
  attachments();
}

function busy(is) {
  at("send").hidden = is;
  at("stop").hidden = !is;
  at("talk").setAttribute("aria-busy", is);
}

// Reads server-sent events; gives the JSON of each.
async function* events(answer) {
  const reader = answer.body.getReader(), decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    text += decoder.decode(value, {stream: true});
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.slice(part.startsWith("data: ") ? 6 : part.indexOf("\ndata: ") + 7); // perhaps after a name
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function complaint({code, message}) {
  if (code.startsWith("image_")) return `${word("image")} ${message}`;
  return WORDS[language][code] ?? message;
}

async function answered(messages, place) {
  let answer;
  try {
    answer = await fetch("/v1/chat/completions", {
      method: "POST", headers: {"Content-Type": "application/json"}, signal: writing.signal,
      body: JSON.stringify({messages, stream: true, max_tokens: Math.min(512, limit("max_new_tokens"))}),
    });
  } catch (problem) {
    throw problem.name === "AbortError" ? problem : new Error(word("offline"));
  }
  if (!answer.ok) throw new Error(complaint((await answer.json()).error));
  for await (const one of events(answer)) {
    if (one.error) throw new Error(complaint(one.error));
    place.words.textContent += one.choices[0]?.delta.content ?? "";
    if (one.choices[0]?.finish_reason === "length") place.item.append(make("p", word("chatCut"), "quiet small"));
    follow();
  }
}

async function send() {
  const words = at("words").value.trim();
  if (writing) return;
  if (!words && !shown.length) return tell(word("needWords"), "problem-chat");
  tell(null);
  const images = shown, parts = images.map(one => ({type: "image_url", image_url: {url: one.address}}));
  const message = {role: "user", content: parts.length ? [...parts, ...(words ? [{type: "text", text: words}] : [])] : words};
  const mine = bubble("user", words, images), reply = bubble("assistant", "");
  writing = new AbortController();
  const current = writing;
  shown = [];
  at("words").value = "";
  attachments();
  busy(true);
  let problem = null;
  try {
    await answered([...said, message], reply);
  } catch (caught) {
    problem = caught;
  }
  if (current !== writing) return; // the conversation began anew meanwhile
  writing = null;
  busy(false);
  const text = reply.words.textContent;
  if (problem?.name === "AbortError" && text) reply.item.append(make("p", word("chatStopped"), "quiet small"));
  if (text) {
    said.push(message, {role: "assistant", content: text});
  } else { // nothing was said: the words are the user's to send again
    mine.item.remove();
    reply.item.remove();
    at("words").value = words;
    shown = images;
    attachments();
  }
  if (problem && problem.name !== "AbortError") tell(problem.message, "problem-chat");
  else if (!text) tell(word("chatNothing"), "problem-chat");
  at("words").focus();
}

function anew() {
  writing?.abort();
  writing = null;
  said = [];
  shown = [];
  at("talk").replaceChildren();
  attachments();
  busy(false);
  tell(null);
  at("words").focus();
}

at("panel-chat").addEventListener("submit", event => {
  event.preventDefault();
  send();
});
at("words").addEventListener("keydown", event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // Enter also ends a Chinese word
  event.preventDefault();
  send();
});
at("stop").addEventListener("click", () => writing?.abort());
at("anew").addEventListener("click", anew);
at("chat-file").addEventListener("change", async event => {
  const files = [...event.target.files];
  event.target.value = "";
  await attach(files);
  at("words").focus();
});
