// Lost and found: queries with what the old and the new model find for them.
const state = {change: "", text: "", limit: page.shown};
const element = (tag, text, kind) => Object.assign(document.createElement(tag), {textContent: text, className: kind || ""});
// Signs that show nothing, or turn the reading direction of what follows.
const visible = text => text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]/gu, "\ufffd");
const WORDS = {lost: "✕ lost", found: "✓ found"};

function matching() {
  const text = state.text.toLowerCase();
  return page.queries.filter(({id, label, change}) => (!state.change || change === state.change)
    && (!text || label.toLowerCase().includes(text) || id.toLowerCase().includes(text)));
}
function picture(id, label) {
  const source = page.images[id];
  if (!source) return element("span", "no picture", "blank");
  const image = Object.assign(new Image(), {alt: visible(label)});
  image.onload = () => image.classList.toggle("coarse", image.naturalWidth <= 56);
  image.src = source;
  return image;
}
function item([id, label], right) {
  const isRight = label === right, figure = element("li", "", isRight ? "right" : "wrong");
  const caption = element("span", "", "caption"), sign = element("span", isRight ? "✓ " : "✕ ", "sign");
  sign.setAttribute("aria-hidden", "true");
  caption.append(sign, element("span", isRight ? "right: " : "wrong: ", "hidden"), element("bdi", visible(label)));
  figure.append(picture(id, label), caption);
  figure.title = visible(id.slice(0, 200));
  return figure;
}
function strip(heading, items, right) {
  const part = element("div", "", "strip"), list = document.createElement("ol");
  list.append(...items.map(one => item(one, right)));
  if (!items.length) list.append(element("li", "nothing", "nothing"));
  part.append(element("span", heading, "heading"), list);
  return part;
}
function line({id, label, change, old, new: now}) {
  const result = element("li", "", `query ${change}`), head = element("div", "", "asked"), about = element("div", "", "about");
  about.append(element("span", WORDS[change], "badge small"), element("bdi", visible(label), "clip"), element("bdi", visible(id), "id clip"));
  head.append(picture(id, label), about);
  result.append(head, strip("before", old, label), strip("now", now, label));
  return result;
}
function describe(found) {
  const lost = found.filter(one => one.change === "lost").length;
  if (!found.length) return "No query matches.";
  const count = Math.min(state.limit, found.length).toLocaleString("en");
  return `${count} of ${found.length.toLocaleString("en")} shown: ${lost.toLocaleString("en")} lost, ${(found.length - lost).toLocaleString("en")} found.`;
}
function show() {
  const found = matching();
  at("queries").replaceChildren(...found.slice(0, state.limit).map(line));
  at("more").hidden = found.length <= state.limit;
  at("more").textContent = `Show ${Math.min(page.shown, found.length - state.limit)} more`;
  at("status").textContent = describe(found);
  for (const button of document.querySelectorAll("#changes button"))
    button.setAttribute("aria-pressed", button.dataset.change === state.change);
}
if (at("queries")) {
  for (const button of document.querySelectorAll("#changes button"))
    button.onclick = () => { Object.assign(state, {change: button.dataset.change, limit: page.shown}); show(); };
  at("text").oninput = event => { Object.assign(state, {text: event.target.value.trim(), limit: page.shown}); show(); };
  at("more").onclick = () => { state.limit += page.shown; show(); };
  show();
}
drawFigures();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawFigures);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
