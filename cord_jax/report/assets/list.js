// The list of problems beside a viewer: search, filter, order, keyboard.

const SHOWN = 200;

/**
 * @param options.problems  [{place, id, text, marks: [element], filters: Set, orders: {name: number}}]
 * @param options.filters   name -> words
 * @param options.orders    name -> words, the first being the default; smaller numbers come first
 * @param options.choose    called with a problem's place
 */
function problemList({ problems, filters, orders, choose }) {
  const search = make("input", { type: "search", placeholder: "Search id, question, answer", "aria-label": "Search problems",
    input: show, keydown: (event) => { if (event.key === "ArrowDown") { items.querySelector("button")?.focus(); event.preventDefault(); } } });
  const filter = select("Which problems", { all: "all", ...filters });
  const order = select("Order", orders);
  const count = make("p", { class: "count", role: "status" });
  const items = make("ol", { class: "items", keydown: walk });
  const element = make("div", { class: "list" }, search, make("div", { class: "row" }, filter, order), count, items);
  let current = null, room = SHOWN;

  function select(label, choices) {
    return make("select", { "aria-label": label, change: () => { room = SHOWN; show(); } },
      Object.entries(choices).map(([value, words]) => make("option", { value }, words)));
  }

  function chosen() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (problem) => (filter.value === "all" || problem.filters.has(filter.value))
      && words.every((word) => problem.text.includes(word));
    const key = (problem) => problem.orders[order.value];
    return problems.filter(fits).sort((a, b) => key(a) - key(b) || a.place - b.place);
  }

  function show() {
    const found = chosen();
    const some = found.slice(0, room);
    count.textContent = found.length === problems.length ? `${found.length} problems` : `${found.length} of ${problems.length} problems`;
    items.replaceChildren(...some.map((problem) => make("li", {},
      make("button", { type: "button", "data-place": problem.place, "aria-current": problem.place === current ? "true" : null,
        click: () => choose(problem.place) },
        make("span", { class: "id" }, problem.id), make("span", { class: "marks" }, problem.marks.map((mark) => mark.cloneNode(true)))))));
    if (found.length > room) {
      const more = () => { room += SHOWN; show(); };
      items.append(make("li", {}, make("button", { type: "button", class: "more", click: more }, `${found.length - room} more`)));
    }
  }

  function walk(event) {
    const way = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (!way) return;
    event.preventDefault();
    const next = event.target.closest("li")?.[way]?.querySelector("button");
    if (next) next.focus();
    else if (event.key === "ArrowUp") search.focus();
  }

  function mark(place) {
    current = place;
    for (const button of items.querySelectorAll("button")) {
      if (Number(button.dataset.place) === place) {
        button.setAttribute("aria-current", "true");
        const [top, bottom] = [button.offsetTop - items.offsetTop, button.offsetTop - items.offsetTop + button.offsetHeight];
        if (top < items.scrollTop) items.scrollTop = top;
        else if (bottom > items.scrollTop + items.clientHeight) items.scrollTop = bottom - items.clientHeight;
      } else button.removeAttribute("aria-current");
    }
  }

  /** Chooses the problem so many further down in the list as it is shown. */
  function move(by) {
    const found = chosen();
    if (!found.length) return;
    const at = found.findIndex((problem) => problem.place === current);
    choose(found[Math.max(0, Math.min(found.length - 1, at + by))].place);
  }

  show();
  return { element, mark, move, focus: () => search.focus(), first: () => chosen()[0]?.place };
}

/** n and p go to the next and the previous problem, / searches; for the viewer that was used last or is in sight. */
const viewers = [];
document.addEventListener("keydown", (event) => {
  if (typing(event) || !["n", "p", "/"].includes(event.key)) return;
  const middle = window.innerHeight / 2;
  const near = (viewer) => { const box = viewer.element.getBoundingClientRect(); return box.top < middle && box.bottom > middle; };
  const viewer = viewers.find((v) => v.element.contains(document.activeElement)) ?? viewers.find(near);
  if (!viewer) return;
  event.preventDefault();
  if (event.key === "/") viewer.list.focus();
  else viewer.list.move(event.key === "n" ? 1 : -1);
});
