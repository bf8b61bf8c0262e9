// Sort a table by the column whose heading is clicked: numbers by value, empty cells last.
function sortBy(table, column, falls) {
  const value = row => row.cells[column].textContent.trim();
  const number = text => parseFloat(text.replace("\u2212", "-"));
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1);
    const difference = number(x) - number(y);
    const sign = Number.isNaN(difference) ? x.localeCompare(y) : difference;
    return falls ? -sign : sign;
  };
  const body = table.tBodies[0];
  [...body.rows].sort(order).forEach(row => body.append(row));
}

document.querySelectorAll("table.sortable").forEach(table => {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.tabIndex = 0;
    const click = () => {
      const falls = heading.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("[aria-sort]").forEach(other => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", falls ? "descending" : "ascending");
      sortBy(table, column, falls);
    };
    heading.addEventListener("click", click);
    heading.addEventListener("keydown", event => { if (event.key === "Enter") click(); });
  });
});
