// A spreadsheet would run a text that starts with one of these signs.
const harmless = text => /^[=+\-@\t\r\n]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
const field = value => `"${(typeof value === "string" ? harmless(value) : value === null ? "" : String(value)).replace(/"/g, '""')}"`;
function download() {
  const head = ["candidate", ...page.columns.map(column => column.key)];
  const rows = matching().map(({row}) => [now().name, ...row]);
  const text = [head, ...rows].map(row => row.map(field).join(",")).join("\r\n") + "\r\n";
  const href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  Object.assign(document.createElement("a"), {download: "negative_flips.csv", href}).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}
function drawAll() {
  drawFigures();
  if (at("broke")) drawChosen();
}
if (at("broke")) {
  for (const button of document.querySelectorAll("#ways button")) button.onclick = () => chooseWay(Number(button.dataset.way));
  for (const button of document.querySelectorAll("#measures button"))
    button.onclick = () => { state.by = button.dataset.by; showPairs(); show(); drawChosen(); };
  for (const head of document.querySelectorAll("#flips th[data-key]"))
    head.firstElementChild.onclick = () => {
      const {key} = head.dataset, isNumber = head.classList.contains("number");
      Object.assign(state, {key, down: state.key === key ? !state.down : isNumber});
      show();
    };
  at("text").oninput = event => { Object.assign(state, {text: event.target.value.trim(), limit: page.shown}); show(); };
  at("clear").onclick = () => { at("text").value = state.text = ""; choose(null); at("text").focus(); };
  at("more").onclick = () => { state.limit += page.shown; show(); };
  at("download").onclick = download;
  showPairs();
  show();
}
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
