"use strict";
/* Tables: a click on a column's name sorts the methods, each with the lines below it. */
for (const table of document.querySelectorAll("table.scores")) {
  const heads = [...table.tHead.rows[0].cells];
  const original = [...table.tBodies];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const before = head.getAttribute("aria-sort");
    const start = column === 0 ? "ascending" : "descending";
    const other = column === 0 ? "descending" : "ascending";
    const order = before === start ? other : before === other ? null : start;
    heads.forEach(one => one.removeAttribute("aria-sort"));
    const bodies = [...original];
    if (order) {
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = body => {
        const cell = body.rows[0].cells[column];
        return column === 0 ? cell.textContent : cell.dataset.value === "" ? null : Number(cell.dataset.value);
      };
      bodies.sort((one, two) => {
        const a = key(one), b = key(two);
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * (column === 0 ? a.localeCompare(b) : a - b);
      });
    }
    bodies.forEach(body => table.insertBefore(body, table.tFoot));
  }));
}

const chosen = name => document.getElementById(name)?.value ?? "";
function filterTables() {
  for (const node of document.querySelectorAll(".table, .panel")) {
    const other = (name, value) => value !== undefined && chosen(name) && chosen(name) !== value;
    node.hidden = Boolean(other("by-model", node.dataset.model) || other("by-task", node.dataset.task));
  }
}
for (const name of ["by-model", "by-task"])
  document.getElementById(name)?.addEventListener("change", filterTables);
