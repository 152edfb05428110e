"use strict";
const field = (id) => document.getElementById(id);
const words = (id) => field(id).value.toLowerCase().trim();
function filter() {
  const role = words("role"), action = words("action"), resource = words("resource"), answer = field("answer").value;
  let shown = 0;
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    const wanted = heads.map((head, at) => at < 2 || head.textContent.toLowerCase().includes(role));
    heads.forEach((head, at) => { head.hidden = !wanted[at]; });
    for (const row of table.tBodies[0].rows) {
      const cells = [...row.cells];
      const named = cells[0].textContent.toLowerCase().includes(action) && cells[1].textContent.toLowerCase().includes(resource);
      const answers = cells.filter((cell, at) => at > 1 && wanted[at] && (answer === "" || cell.className === answer));
      cells.forEach((cell, at) => { cell.hidden = !wanted[at]; });
      row.hidden = !named || answers.length === 0;
      shown += row.hidden ? 0 : answers.length;
    }
  }
  field("count").textContent = shown + " cells";
}
for (const id of ["role", "action", "resource", "answer"]) field(id).addEventListener("input", filter);
field("filters").addEventListener("submit", (event) => event.preventDefault());
filter();
