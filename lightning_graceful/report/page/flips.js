// What broke: heat map, most frequent flips and the list of one candidate, by what is chosen.
const state = {way: 0, by: "count", pair: null, text: "", key: null, down: false, limit: page.shown};
const place = Object.fromEntries(page.columns.map((column, number) => [column.key, number]));
const hasImages = Object.keys(page.images).length > 0;
const now = () => page.candidates[state.way];
const element = (tag, text, kind) => Object.assign(document.createElement(tag), {textContent: text, className: kind || ""});
// Signs that show nothing, or turn the reading direction of what follows.
const visible = text => text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]/gu, "\ufffd");
const short = (text, most = 60) => visible(text.length > most ? `${text.slice(0, most - 1)}…` : text);
const same = (a, b) => a && b && a[0] === b[0] && a[1] === b[1];
const many = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function matching() {
  const text = state.text.toLowerCase(), {pair, key, down} = state, candidate = now();
  const rows = candidate.rows.map((row, number) => ({row, id: candidate.ids[number]}));
  const says = ({row}) => page.columns.some((column, number) =>
    ["name", "text"].includes(column.kind) && row[number] !== null && row[number].toLowerCase().includes(text));
  const found = rows.filter(({row}) => !pair || same(pair, [row[place.target], row[place.new]])).filter(one => !text || says(one));
  return key === null ? found : found.sort((a, b) => compare(a.row[place[key]], b.row[place[key]], down));
}
function picture(id) {
  const cell = element("td", "", "picture"), source = page.images[id];
  if (!source) return cell.append(element("span", "none", "none")), cell;
  const image = Object.assign(new Image(), {alt: `sample ${short(id)}`});
  image.onload = () => image.classList.toggle("coarse", image.naturalWidth <= 56);
  image.src = source;
  cell.append(image);
  return cell;
}
const written = {share: value => `${(100 * value).toFixed(1)}\u00a0%`, number: value => String(Number(value.toPrecision(4))),
  name: visible, text: visible};
function line({row, id}) {
  const result = document.createElement("tr");
  if (hasImages) result.append(picture(id));
  page.columns.forEach((column, number) => {
    const value = row[number], isText = ["name", "text"].includes(column.kind);
    const cell = element("td", "", isText ? column.kind : "number");
    cell.dataset.key = column.key;
    cell.classList.toggle("brief", isText && value !== null && value.length <= 20);
    const inside = element(isText ? "bdi" : "span", value === null ? "–" : written[column.kind](value), "clip");
    cell.append(inside);
    result.append(cell);
  });
  return result;
}
function describe(found) {
  const {name, total, rows} = now();
  if (!total) return `${short(name)} breaks nothing that the old model had right.`;
  const filters = [state.pair && `${short(state.pair[0])} → ${short(state.pair[1])}`, state.text && `“${short(state.text)}”`];
  const part = filters.some(Boolean) ? `, filtered by ${filters.filter(Boolean).join(" and ")}` : "";
  const kept = rows.length < total ? ` This file lists ${rows.length.toLocaleString("en")} of them, the worst.` : "";
  const csv = found > state.limit ? `; the CSV has all ${found.toLocaleString("en")}.` : ".";
  return `${short(name)}: ${Math.min(found, state.limit)} of ${many(total, "negative flip")} shown${part}${csv}${kept}`;
}
function press(selector, isPressed) {
  for (const button of document.querySelectorAll(selector)) button.setAttribute("aria-pressed", isPressed(button));
}
function show() {
  const found = matching();
  at("flips").tBodies[0].replaceChildren(...found.slice(0, state.limit).map(line));
  at("flips").hidden = !found.length;
  at("tools").hidden = !now().total;
  at("download").disabled = !found.length;
  at("more").hidden = found.length <= state.limit;
  at("more").textContent = `Show ${Math.min(page.shown, found.length - state.limit)} more`;
  at("status").textContent = describe(found.length);
  at("clear").hidden = !state.pair && !state.text;
  for (const head of document.querySelectorAll("#flips th[data-key]"))
    head.setAttribute("aria-sort", head.dataset.key !== state.key ? "none" : state.down ? "descending" : "ascending");
  press("#ways button", button => Number(button.dataset.way) === state.way);
  press("#measures button", button => button.dataset.by === state.by);
  press("#pairs button", button => Boolean(same(button.pair, state.pair)));
}
function showPairs() {
  at("frequent").textContent = state.by === "count" ? "Most frequent flips" : "Costliest flips";
  at("pairs").replaceChildren(...now().pairs[state.by].map(([target, answer, count, cost]) => {
    const button = Object.assign(element("button", `${short(target, 40)} → ${short(answer, 40)}`), {type: "button", pair: [target, answer]});
    button.append(element("small", state.by === "count" ? `× ${count}` : `cost ${written.number(cost)}`));
    button.onclick = () => choose(same(button.pair, state.pair) ? null : button.pair);
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}
const outline = (row, column) => ({type: "rect", x0: column - .5, x1: column + .5, y0: row - .5, y1: row + .5,
  line: {width: 2}, visible: row >= 0 && column >= 0});
function drawChosen() {
  const {heat, confidence} = now();
  at("between").hidden = !heat && !confidence;
  at("sure").hidden = !confidence;
  if (confidence) draw("confidence", confidence);
  for (const table of document.querySelectorAll("[data-of]")) table.hidden = Number(table.dataset.of) !== state.way;
  if (!heat) return;
  const figure = heat[state.by], {classes, taking_part} = figure.layout.meta, left = taking_part - classes.length;
  at("left-out").textContent = left > 0 ? `The ${classes.length} classes with most; ${left.toLocaleString("en")} more take part.` : "";
  at("between").classList.toggle("split", classes.length <= 16);
  at("heat").style.minWidth = classes.length > 7 ? `${classes.length * (classes.length > 16 || innerWidth < 640 ? 20 : 30) + 120}px` : "";
  const shapes = state.pair ? [outline(classes.indexOf(state.pair[0]), classes.indexOf(state.pair[1]))] : [];
  draw("heat", {data: figure.data, layout: {...figure.layout, shapes}});
  at("heat").removeAllListeners("plotly_click");
  at("heat").on("plotly_click", ({points: [{x, y}]}) => choose([classes[y], classes[x]]));
}
function choose(pair) {
  Object.assign(state, {pair, limit: page.shown});
  show();
  drawChosen();
  if (pair) at("status").scrollIntoView({block: "nearest"});
}
function chooseWay(way) {
  Object.assign(state, {way, pair: null, limit: page.shown});
  showPairs();
  show();
  drawChosen();
}
