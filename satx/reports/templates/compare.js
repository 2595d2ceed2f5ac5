"use strict";
(() => {
  const table = document.getElementById("runs");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const lines = [...document.querySelectorAll("polyline")]; // of each run two, for wide and narrow screens
  const linesOf = (run) => lines.filter((line) => line.dataset.run === run);
  const byRun = new Map(rows.map((row) => [row.dataset.run, row]));

  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent;
  const compare = (first, second) => {
    const numbers = [Number(first), Number(second)];
    return numbers.some(Number.isNaN) ? first.localeCompare(second) : numbers[0] - numbers[1];
  };
  const sort = (heading) => {
    const direction = heading.ariaSort === "descending" ? "ascending" : "descending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const column = heading.cellIndex;
    rows.sort((first, second) => {
      const [a, b] = [key(first, column), key(second, column)];
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * compare(a, b);
    });
    body.append(...rows);
  };
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(heading));
    heading.append(button);
  }

  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  filter.closest(".tools").hidden = false;
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const hit = words.every((word) => text.includes(word));
      row.hidden = !hit;
      for (const line of linesOf(row.dataset.run)) line.toggleAttribute("hidden", !hit);
      count += hit;
    }
    shown.textContent = words.length ? `${count} of ${rows.length}` : "";
  });

  const light = (run, on) => {
    byRun.get(run)?.classList.toggle("lit", on);
    for (const line of linesOf(run)) line.classList.toggle("lit", on);
  };
  for (const element of [...rows, ...lines]) {
    element.addEventListener("mouseenter", () => light(element.dataset.run, true));
    element.addEventListener("mouseleave", () => light(element.dataset.run, false));
  }
  for (const line of lines) {
    line.addEventListener("click", () => byRun.get(line.dataset.run)?.scrollIntoView({ block: "center" }));
  }
})();
