// Tables of classes and slices: sort by a heading, filter by name.
const collator = new Intl.Collator(undefined, {numeric: true});
// What is missing comes last, whichever way.
function compare(a, b, down) {
  const isMissing = value => value === null || value === "" || Number.isNaN(value);
  if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
  return (down ? -1 : 1) * (typeof a === "string" ? collator.compare(a, b) : a - b);
}
function sortBy(table, head) {
  const place = head.cellIndex, isNumber = head.dataset.sorts === "number";
  const down = head.ariaSort ? head.ariaSort !== "descending" : isNumber;
  const value = row => isNumber ? parseFloat(row.cells[place].dataset.value) : row.cells[place].textContent;
  for (const other of table.querySelectorAll("th[data-sorts]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => compare(value(a), value(b), down)));
}
function filterBy(table, text) {
  const rows = [...table.tBodies[0].rows], names = row => [...row.querySelectorAll("bdi")].map(name => name.textContent);
  for (const row of rows) row.hidden = !names(row).join("=").toLowerCase().includes(text.toLowerCase());
  const count = rows.filter(row => !row.hidden).length;
  at(`${table.id}-status`).textContent = text ? `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "";
}
for (const table of document.querySelectorAll(".sortable"))
  for (const head of table.querySelectorAll("th[data-sorts]"))
    head.firstElementChild.onclick = () => sortBy(table, head);
for (const input of document.querySelectorAll("[data-filters]"))
  input.oninput = () => filterBy(at(input.dataset.filters), input.value.trim());
