// The viewer of problems: the list, the drawing of a search, its winner step by step, and a candidate in full.

const FIELDS = ["node", "parent", "step", "beam", "teacher", "score", "rank", "kept", "dropped", "ended", "text"];
const ENDED = { marker: "the next step's marker", think_end: "</think>", eos: "the end of the sequence", cap: "the cap of a step", budget: "the cap of the trace" };

async function showTrees(mount) {
  const index = await unpack("index-trees");
  const { runs, problems } = index;
  const asked = address();
  const state = { place: null, run: Math.max(0, runs.findIndex((run) => run.name === asked.run)), node: null };
  const main = make("div", { class: "stage", "aria-live": "off" });
  const list = problemList({
    problems: problems.map(entry),
    filters: { wrong: "wrong", right: "right", ...(runs.length > 1 ? { differ: "runs differ" } : {}), incomplete: "not complete", unknown: "answer unknown" },
    orders: { urgency: "wrong first", score: "lowest score first", steps: "longest first", place: "in order" },
    choose: (place) => open(place),
  });
  mount.append(list.element, main);
  viewers.push({ element: mount.closest("section"), list });

  function entry([id, question, answer, found], place) {
    const there = found.filter(Boolean), correct = there.map(([right]) => right);
    const wrong = correct.filter((right) => right === false).length;
    const lowest = Math.min(...there.map(([, , score]) => score ?? 0));
    const filters = new Set();
    if (wrong) filters.add("wrong");
    if (correct.includes(true)) filters.add("right");
    if (correct.includes(null)) filters.add("unknown");
    if (new Set(correct).size > 1) filters.add("differ");
    if (there.some(([, status]) => status !== "complete")) filters.add("incomplete");
    const orders = { urgency: -wrong - 0.5 * correct.filter((right) => right === null).length, score: lowest, steps: -Math.max(...there.map(([, , , steps]) => steps)), place };
    const text = [id, question, answer, ...there.map((of) => of[4])].filter(Boolean).join(" ").toLowerCase();
    return { place, id, text, filters, orders, marks: found.map((of, r) => (of ? verdict(of[0], runs[r].name) : make("span", {}, "·"))) };
  }

  async function open(place, node = null, quiet = false) {
    if (!problems[place][3][state.run]) state.run = problems[place][3].findIndex(Boolean);
    state.place = place;
    list.mark(place);
    const tree = await unpack(`tree-${state.run}-${place}`);
    if (state.place !== place) return;
    show(place, tree, node);
    if (!quiet) remember({ problem: problems[place][0], run: runs.length > 1 ? runs[state.run].name : null });
  }

  function show(place, tree, node) {
    const [id, , , found] = problems[place];
    const tabs = runs.length > 1 ? make("div", { class: "tabs", role: "group", "aria-label": "Run" }, runs.map((run, r) => (found[r]
      ? make("button", { type: "button", "aria-pressed": String(r === state.run), click: () => { state.run = r; open(place); } }, verdict(found[r][0]), ` ${run.name}`)
      : make("span", { class: "absent" }, run.name)))) : null;
    if (tree === null) {
      main.replaceChildren(make("h3", {}, id), tabs, make("p", { class: "note" }, "There was no room for this problem in the page; the run's files have it."));
      return;
    }
    tree.nodes = tree.nodes.map((values) => Object.fromEntries(FIELDS.map((name, i) => [name, values[i]])));
    const byNumber = new Map(tree.nodes.map((n) => [n.node, n]));
    const detail = make("div", { class: "candidate", "aria-live": "polite" });
    const steps = winnerSteps(tree, (number) => choose(number));
    const head = make("div", { class: "head" }, make("h3", {}, verdict(tree.correct), " ", id), tabs, facts(tree),
      make("details", { class: "question", open: "" }, make("summary", {}, "Question"), make("pre", {}, tree.context ? `${tree.context}\n\n` : "", tree.question)));
    const drawing = tree.nodes.length ? drawTree(tree, runs[state.run], (number) => choose(number, true)) : null;
    const board = drawing ? make("div", { class: "board", tabindex: "0", role: "group", "aria-label": "Search tree; arrow keys go from candidate to candidate", keydown: walk }, drawing.picture)
      : make("p", { class: "note" }, "The run has no candidates of this problem.");
    const apart = tree.nodes.length && tree.steps.length && !tree.winner.length
      ? make("p", { class: "note" }, "The winner is none of these: it was written from them.") : "";
    main.replaceChildren(head, drawing ? legendOf(tree) : "", board, apart, make("div", { class: "texts" }, steps, detail));
    choose(byNumber.has(node) ? node : tree.winner[tree.winner.length - 1] ?? tree.nodes[0]?.node ?? null);
    if (drawing) board.scrollLeft = 0;

    function choose(number, told = false) {
      state.node = number;
      for (const item of steps.querySelectorAll("[data-node]")) item.classList.toggle("chosen", Number(item.dataset.node) === number);
      if (!byNumber.has(number)) return;
      const point = drawing.select(number);
      if (point) reveal(board, point);
      detail.replaceChildren(...candidate(tree, byNumber.get(number), (other) => choose(other, true)));
      if (told) remember({ problem: id, run: runs.length > 1 ? runs[state.run].name : null, node: number });
    }

    function walk(event) {
      const here = byNumber.get(state.node);
      if (!here || typing(event)) return;
      const [x, y] = drawing.at.get(here.node);
      const column = tree.nodes.filter((n) => n.step === here.step).sort((a, b) => drawing.at.get(a.node)[1] - drawing.at.get(b.node)[1]);
      const nearest = (nodes) => nodes.sort((a, b) => Math.abs(drawing.at.get(a.node)[1] - y) - Math.abs(drawing.at.get(b.node)[1] - y))[0];
      const children = tree.nodes.filter((n) => n.parent === here.node);
      const next = {
        ArrowLeft: () => byNumber.get(here.parent),
        ArrowRight: () => children.find((n) => tree.winner.includes(n.node)) ?? nearest(children.filter((n) => n.kept)) ?? children[0],
        ArrowUp: () => column[column.indexOf(here) - 1],
        ArrowDown: () => column[column.indexOf(here) + 1],
        Home: () => byNumber.get(tree.winner[0]),
        End: () => byNumber.get(tree.winner[tree.winner.length - 1]),
      }[event.key];
      if (!next) return;
      event.preventDefault();
      const found = next();
      if (found) choose(found.node, true);
    }
  }

  const wanted = problems.findIndex(([id]) => id === asked.problem);
  const first = wanted >= 0 ? wanted : list.first();
  await open(first, asked.node ? Number(asked.node) : null, true);
  if (wanted >= 0) mount.closest("section").scrollIntoView();
}

/** Scrolls the board, not the page, until a point is in sight. */
function reveal(board, [x, y]) {
  const [width, height] = [board.clientWidth, board.clientHeight];
  if (x < board.scrollLeft + 70 || x > board.scrollLeft + width - 70) board.scrollLeft = x - width / 2;
  if (y < board.scrollTop + 20 || y > board.scrollTop + height - 20) board.scrollTop = y - height / 2;
}

function facts(tree) {
  const decoys = tree.decoys?.length ? fact("best decoy", digits(Math.max(...tree.decoys))) : null;
  return make("dl", { class: "facts" }, fact("answer", tree.answer ?? "unknown"), fact("predicted", tree.predicted ?? "none stated"),
    fact("status", tree.status.replace("_", " ")), fact("score", digits(tree.score)),
    tree.perplexity !== null && tree.perplexity !== tree.score ? fact("predictive perplexity", digits(tree.perplexity)) : null, decoys,
    fact("steps", String(tree.steps.length)), fact("candidates", String(tree.nodes.length)), fact("tokens proposed", String(tree.proposed)), fact("seconds", tree.seconds.toFixed(1)));
}

function legendOf(tree) {
  const sample = (kind, words) => make("li", {}, draw("svg", { class: "badge", viewBox: "-9 -9 18 18", width: 16, height: 16, "aria-hidden": "true" },
    draw("g", { class: `mark ${kind}`, style: "color: var(--muted)" }, kind === "won kept" ? draw("circle", { class: "ring", r: 8 }) : null, draw("path", { d: SHAPES[0] }))), words);
  const reasons = [...new Set(tree.nodes.map((n) => n.dropped).filter(Boolean))].map((dropped) => make("li", {}, make("b", {}, reason(dropped)[0]), ` ${dropped.replace("_", " ")}`));
  return make("ul", { class: "legend" }, tree.teachers.map((name, i) => make("li", {}, badge(i), name)),
    sample("won kept", "winner"), sample("kept", "kept"), sample("scored", "not kept"), reasons.length ? sample("dropped", "dropped:") : null, reasons);
}

/** The winner's steps in full, each a button that chooses it in the drawing. */
function winnerSteps(tree, choose) {
  const items = tree.steps.map(([teacher, score, tokens, ended, text], i) => make("li", { "data-node": tree.winner[i] ?? null },
    make("button", { type: "button", class: "by", click: () => tree.winner[i] && choose(tree.winner[i]) }, badge(teacher), make("b", {}, tree.teachers[teacher]),
      make("span", { class: "meta" }, `${digits(score)} · ${tokens} tokens`)),
    make("pre", {}, text.trimEnd() || "(nothing to add)")));
  return make("div", { class: "winner" }, make("h4", {}, "The winner"), make("ol", {}, items),
    make("h4", {}, "Response"), make("pre", { class: "response" }, tree.response ?? "(none: the search got stuck)"));
}

/** One candidate in full, and those that were proposed beside it. */
function candidate(tree, node, choose) {
  const beside = tree.nodes.filter((n) => n.parent === node.parent && n.step === node.step && n.beam === node.beam);
  const rows = beside.sort((a, b) => (b.score ?? -1) - (a.score ?? -1)).map((n) => make("tr", { class: n === node ? "chosen" : null },
    make("td", {}, badge(n.teacher), make("button", { type: "button", click: () => choose(n.node) }, tree.teachers[n.teacher])),
    make("td", {}, digits(n.score)), make("td", {}, n.dropped ? n.dropped.replace("_", " ") : n.kept ? "kept" : "not kept"), make("td", { class: "start" }, n.text.trim().slice(0, 160))));
  return [make("h4", {}, badge(node.teacher), tree.teachers[node.teacher], make("span", { class: "meta" }, `step ${node.step}, candidate ${node.node}`)),
    make("dl", { class: "facts" }, fact("score", digits(node.score)), fact("fate", fate(node)), fact("ended by", ENDED[node.ended] ?? node.ended)),
    make("pre", { class: "text" }, node.text.trimEnd() || "(no text)"),
    make("h5", {}, "Proposed beside it"), make("div", { class: "scroll" }, make("table", { class: "beside" }, make("tbody", {}, rows)))];
}
