// A search tree as a drawing: steps from left to right, a lane for each beam, a mark for each candidate.

const COLUMN = 58, ROW = 17, GAP = 12, LEFT = 66, TOP = 74, RADIUS = 5.5;
// The same shapes as in the charts: circle, square, triangle, diamond, triangle, plus, cross, pentagon.
const SHAPES = [
  "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0 -11 0Z", "M-4.9 -4.9H4.9V4.9H-4.9Z", "M0 -6.2L6 4.6H-6Z", "M0 -6.6L6.2 0L0 6.6L-6.2 0Z",
  "M0 6.2L6 -4.6H-6Z", "M-2 -6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z", "M-6 -3.4L-3.4 -6L0 -2.6L3.4 -6L6 -3.4L2.6 0L6 3.4L3.4 6L0 2.6L-3.4 6L-6 3.4L-2.6 0Z",
  "M0 -6.2L5.9 -1.9L3.6 5H-3.6L-5.9 -1.9Z",
];
const REASONS = {
  duplicate: ["=", "says what another candidate of the round says"],
  empty: ["∅", "holds nothing that can be kept"],
  invalid_utf8: ["!", "is not valid text"],
  arithmetic: ["≠", "has an equation that does not hold"],
  repetition: ["↺", "says again what an earlier step has said"],
};
const reason = (dropped) => REASONS[dropped] ?? ["×", `was dropped by the filter ${dropped}`];

/** A teacher's mark alone, for a line of text. */
function badge(teacher) {
  return draw("svg", { class: "badge", viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true" },
    draw("path", { d: SHAPES[teacher % 8], style: `fill: var(--series-${teacher % 8})` }));
}

function fate(node) {
  if (node.dropped) return `dropped: it ${reason(node.dropped)[1]}`;
  return node.kept ? (node.rank === null ? "kept" : `kept, ranked ${node.rank + 1}`) : "scored, not kept";
}

/** node -> [x, y], and the lanes' names: a lane for each beam, its candidates one below the other. */
function layOutBeams(nodes, lane) {
  const rows = new Map(), at = new Map(), lanes = [];
  for (const node of nodes) {
    const key = `${node.step} ${node.beam}`;
    node.row = rows.get(key) ?? 0;
    rows.set(key, node.row + 1);
  }
  const tallest = new Map();
  for (const node of nodes) tallest.set(node.beam, Math.max(tallest.get(node.beam) ?? 0, node.row + 1));
  let y = TOP;
  for (const beam of [...tallest.keys()].sort((a, b) => a - b)) {
    const height = tallest.get(beam) * ROW;
    lanes.push({ name: `${lane} ${beam + 1}`, y, height });
    for (const node of nodes) if (node.beam === beam) at.set(node.node, [LEFT + node.step * COLUMN, y + (node.row + 0.5) * ROW]);
    y += height + GAP;
  }
  return { at, lanes, height: y };
}

/** The same for a tree that may go back to any node: each leaf has a row of its own. */
function layOutTree(nodes) {
  const children = new Map(), at = new Map();
  for (const node of nodes) children.set(node.parent, [...(children.get(node.parent) ?? []), node]);
  let row = 0;
  const todo = [[0, 0, false]];
  while (todo.length) {
    const [number, step, done] = todo.pop(), inside = children.get(number) ?? [];
    if (done) at.set(number, [LEFT + step * COLUMN, inside.reduce((sum, child) => sum + at.get(child.node)[1], 0) / inside.length]);
    else if (!inside.length) at.set(number, [LEFT + step * COLUMN, TOP + (row++ + 0.5) * ROW]);
    else todo.push([number, step, true], ...inside.map((child) => [child.node, child.step, false]).reverse());
  }
  return { at, lanes: [], height: TOP + row * ROW + GAP };
}

function curve([x0, y0], [x1, y1]) {
  const middle = (x0 + x1) / 2;
  return `M${x0} ${y0}C${middle} ${y0} ${middle} ${y1} ${x1} ${y1}`;
}

/**
 * @param tree    a block of the page with its nodes as objects
 * @param run     mcts: whether any node may have been extended at any time; lane: the word for a beam
 * @param choose  called with a node's number
 * @returns the drawing, and a function that marks a node as chosen
 */
function drawTree(tree, { mcts, lane }, choose) {
  const { at, lanes, height } = mcts ? layOutTree(tree.nodes) : layOutBeams(tree.nodes, lane);
  const deepest = Math.max(...tree.nodes.map((node) => node.step)), won = new Set(tree.winner);
  const width = LEFT + deepest * COLUMN + 40, groups = new Map();
  for (const node of tree.nodes) {
    const key = `${node.parent} ${node.step} ${node.beam}`;
    groups.set(key, [...(groups.get(key) ?? []), node]);
  }
  const root = [LEFT, mcts ? at.get(0)[1] : TOP + (lanes[0]?.height ?? ROW) / 2];
  const lines = [], marks = [];
  for (const group of groups.values()) {
    const from = group[0].parent === 0 ? root : at.get(group[0].parent);
    const points = group.map((node) => at.get(node.node)), x = points[0][0] - 15;
    const [first, last] = [points[0][1], points[points.length - 1][1]], winner = group.find((node) => won.has(node.node));
    const entry = [x, (first + last) / 2];
    if (from) lines.push(draw("path", { class: "edge", d: curve([from[0] + RADIUS + 1, from[1]], entry) }));
    lines.push(draw("path", { class: "bracket", d: `M${x + 4} ${first}H${x}V${last}H${x + 4}` }));
    if (winner && from) {
      const end = at.get(winner.node);
      lines.push(draw("path", { class: "edge won", d: `${curve([from[0] + RADIUS + 1, from[1]], entry)}L${x} ${end[1]}H${end[0] - RADIUS}` }));
    }
  }
  for (const node of tree.nodes) marks.push(markOf(node, at.get(node.node), tree, won, choose));
  const labels = lanes.map((lane) => draw("g", {}, draw("rect", { class: "lane", x: LEFT + 26, y: lane.y - 3, width: width - LEFT - 26, height: lane.height + 6, rx: 6 }),
    draw("text", { class: "lane-name", x: 4, y: lane.y + lane.height / 2 + 4 }, lane.name)));
  const steps = Array.from({ length: deepest }, (_, i) => draw("text", { class: "step-name", x: LEFT + (i + 1) * COLUMN, y: 62 }, String(i + 1)));
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "tree", role: "img", "aria-label": describe(tree) },
    labels, draw("text", { class: "lane-name", x: 4, y: 62 }, "step"), scoreLine(tree), steps, lines, draw("circle", { class: "root", cx: root[0], cy: root[1], r: 4 }),
    draw("circle", { class: "halo", r: 11, visibility: "hidden" }), marks);
  function select(number) {
    const halo = picture.querySelector(".halo"), place = at.get(number);
    halo.setAttribute("visibility", place ? "visible" : "hidden");
    if (place) [["cx", place[0]], ["cy", place[1]]].forEach(([name, value]) => halo.setAttribute(name, value));
    return place;
  }
  return { picture, select, at };
}

function markOf(node, [x, y], tree, won, choose) {
  const kind = node.dropped ? "dropped" : node.kept ? "kept" : "scored", shape = SHAPES[node.teacher % 8];
  const score = node.score === null ? "" : `, score ${digits(node.score)}`;
  return draw("g", { class: `mark ${kind}${won.has(node.node) ? " won" : ""}`, transform: `translate(${x} ${y})`,
    "data-node": node.node, style: `color: var(--series-${node.teacher % 8})`, click: () => choose(node.node) },
    draw("title", {}, `${tree.teachers[node.teacher]}, step ${node.step}${score}, ${fate(node)}`),
    draw("rect", { class: "target", x: -14, y: -8.5, width: 28, height: 17 }),
    won.has(node.node) ? draw("circle", { class: "ring", r: 8.5 }) : null, draw("path", { d: shape }),
    node.dropped ? draw("text", { y: 3 }, reason(node.dropped)[0]) : null);
}

/** The winner's score above the columns, from 0 to 1; nothing where scores are of another kind. */
function scoreLine(tree) {
  const scores = tree.steps.map((step) => step[1]);
  if (!scores.length || scores.some((score) => score === null || score < 0 || score > 1)) return null;
  const [top, bottom] = [10, 46], point = (score, i) => [LEFT + (i + 1) * COLUMN, bottom - score * (bottom - top)];
  const points = scores.map(point), path = points.map(([x, y], i) => `${i ? "L" : "M"}${x} ${y}`).join("");
  const area = `${path}L${points[points.length - 1][0]} ${bottom}L${points[0][0]} ${bottom}Z`;
  const dots = points.map(([x, y], i) => draw("g", {}, draw("circle", { class: "score-dot", cx: x, cy: y, r: 2.2 }),
    draw("title", {}, `step ${i + 1}: ${digits(scores[i])}`)));
  const [x, y] = points[points.length - 1];
  return draw("g", { class: "scores" }, draw("text", { class: "lane-name", x: 4, y: 30 }, "score"), draw("path", { class: "score-area", d: area }),
    draw("path", { class: "score-line", d: path }), dots, draw("text", { class: "score-name", x: x + 6, y: Math.max(14, y + 3) }, digits(scores[scores.length - 1], 2)));
}

function describe(tree) {
  const dropped = tree.nodes.filter((node) => node.dropped).length;
  return `Search tree: ${tree.nodes.length} candidates, ${dropped} dropped; the winner has ${tree.steps.length} steps by `
    + tree.steps.map((step) => tree.teachers[step[0]]).join(", ");
}
