// Sorts a table by the column whose head is clicked: first from the least, then from the most. Cells without a value
// stay last either way.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);

    const key = (row) => row.cells[head.cellIndex].dataset.value ?? "";
    const isNumber = head.dataset.kind === "number";
    const rows = [...body.rows].sort((a, b) => {
      const [one, two] = [key(a), key(b)];
      if (one === "" || two === "") return Number(one === "") - Number(two === "");
      const order = isNumber ? Number(one) - Number(two) : one.localeCompare(two);
      return direction === "ascending" ? order : -order;
    });
    body.append(...rows);
  });
}
