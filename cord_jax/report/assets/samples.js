// The viewer of samples: a problem's answers of every evaluated model, side by side.

async function showSamples(mount) {
  const { runs, problems } = await unpack("index-samples");
  const main = make("div", { class: "stage" });
  const asked = address();
  let current = null;
  const list = problemList({
    problems: problems.map(entry),
    filters: { never: "never right", sometimes: "sometimes right", always: "always right" },
    orders: { urgency: "wrong first", spread: "models differ first", place: "in order" },
    choose: (place) => open(place),
  });
  mount.append(list.element, main);
  viewers.push({ element: mount.closest("section"), list });

  function entry([id, question, answer, counts], place) {
    const shares = counts.filter(([, n]) => n).map(([right, n]) => right / n);
    const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
    const filters = new Set([mean === 0 ? "never" : mean === 1 ? "always" : "sometimes"]);
    const orders = { urgency: mean, spread: Math.min(...shares) - Math.max(...shares), place };
    const text = [id, question, answer].filter(Boolean).join(" ").toLowerCase();
    return { place, id, text, filters, orders, marks: counts.map(([right, n], r) => make("span", { class: "fraction", title: runs[r].name }, n ? `${right}/${n}` : "·")) };
  }

  async function open(place, quiet = false) {
    current = place;
    list.mark(place);
    const data = await unpack(`samples-${place}`);
    if (current !== place) return;
    const [id, , answer, counts] = problems[place];
    const columns = data === null ? [make("p", { class: "note" }, "There was no room for this problem in the page; the runs' files have it.")]
      : data.runs.map((samples, r) => column(runs[r].name, samples, counts[r]));
    main.replaceChildren(make("div", { class: "head" }, make("h3", {}, id), make("dl", { class: "facts" }, fact("answer", answer ?? "see the problem file")),
      data?.question ? make("details", { class: "question", open: "" }, make("summary", {}, "Question"), make("pre", {}, data.question)) : ""),
    make("div", { class: "columns", tabindex: "0", role: "region", "aria-label": "Samples by model" }, columns));
    if (!quiet) remember({ sample: id });
  }

  const wanted = problems.findIndex(([id]) => id === asked.sample);
  await open(wanted >= 0 ? wanted : list.first(), true);
  if (wanted >= 0) mount.closest("section").scrollIntoView();
}

function column(name, samples, [right, count]) {
  const items = samples.map(([sample, correct, predicted, tokens, thinking, ended, closed, text]) => make("details", { class: "sample", open: sample === 0 ? "" : null },
    make("summary", {}, verdict(correct), ` ${predicted ?? "no answer stated"}`, make("span", { class: "meta" },
      `${tokens} tokens${ended === "cap" ? ", cut off at the cap" : ""}${closed === false ? ", thought never closed" : ""}`)),
    make("pre", {}, text)));
  return make("div", { class: "column" }, make("h4", {}, name, make("span", { class: "meta" }, `${right} of ${count} right`)), items);
}

async function start() {
  const parts = [["mount-trees", showTrees], ["mount-samples", showSamples]];
  for (const [id, show] of parts) {
    const mount = document.getElementById(id);
    if (mount === null) continue;
    try {
      await show(mount);
    } catch (error) {
      mount.replaceChildren(make("p", { class: "warning" }, `This browser cannot unpack the data (${error.message}); a current one can.`));
    }
  }
  document.documentElement.dataset.ready = "true";
}
start();
