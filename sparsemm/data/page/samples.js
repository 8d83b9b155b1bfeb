"use strict";
/* The browser through samples: one question, its image, and what every method answered. */
const shown = {table: 0, column: 0, at: 0, only: false};

function listed() {
  const table = DATA.samples.tables[shown.table];
  return shown.only ? table.samples.filter(one => differ(one, answersOf(table, one))) : table.samples;
}

function firstDiffering() {
  const table = DATA.samples.tables[shown.table];
  return Math.max(0, listed().findIndex(one => differ(one, answersOf(table, one))));
}

/* Of the chosen column, and of rows that have one run for all columns: [row, answer, score, kept, error]. */
function answersOf(table, sample) {
  return sample.answers.filter(one => one[1] === -1 || one[1] === shown.column)
    .map(([row, , ...rest]) => [row, ...rest]).sort((a, b) => a[0] - b[0]);
}

function differ(sample, answers) {
  return new Set(answers.map(one => one[1])).size > 1;
}

/* An answer with what is not in `reference` marked: what lies between the common beginning and end;
   an empty mark shows where something is left out. By code points: half an emoji is no text. */
function marked(answer, other) {
  if (other === null || answer === other) return [answer];
  const text = [...answer], reference = [...other];
  let start = 0, end = 0;
  const most = Math.min(text.length, reference.length);
  while (start < most && text[start] === reference[start]) start++;
  while (end < most - start && text[text.length - 1 - end] === reference[reference.length - 1 - end]) end++;
  const part = (from, to) => text.slice(from, to).join("");
  const middle = make("mark", {textContent: part(start, text.length - end)});
  return [part(0, start), middle, part(text.length - end)];
}

function show() {
  const table = DATA.samples.tables[shown.table];
  const box = document.getElementById("sample");
  const samples = listed();
  shown.at = Math.max(0, Math.min(shown.at, samples.length - 1));
  document.getElementById("place").textContent = samples.length ? `${shown.at + 1} of ${samples.length}` : "none";
  if (!samples.length) {
    box.replaceChildren(make("p", {textContent: "All methods answer every sample shown here alike."}));
    return;
  }
  const sample = samples[shown.at];
  const picture = make("div", {className: "picture"});
  for (const number of sample.images) {
    const image = make("img", {src: DATA.images[number], alt: `Image of sample ${sample.id}`});
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 400));
    picture.append(image);
  }
  if (!sample.images.length) picture.append(make("p", {className: "soft", textContent: sample.no_image}));
  const answers = answersOf(table, sample);
  const full = answers.find(one => table.rows[one[0]].full);
  const body = answers.map(([row, answer, score, kept, error]) => {
    const method = table.rows[row];
    const dot = make("span", {className: "dot"});
    dot.dataset.color = method.color;
    const said = error ? [make("span", {className: "error", textContent: `failed: ${error}`})]
      : marked(answer, full && full[0] !== row ? full[1] : null);
    return make("tr", {className: method.full ? "full" : ""},
      make("th", {}, dot, method.name),
      make("td", {className: "answer", dir: "auto"}, ...said),
      make("td", {textContent: score === null ? "–" : table.percent ? (100 * score).toFixed(0) + " %" : score.toFixed(2)}),
      make("td", {textContent: kept === null ? "–" : (100 * kept).toFixed(kept < .1 ? 1 : 0) + " %"}));
  });
  const head = make("tr", {}, make("th", {textContent: "Method"}), make("th", {className: "answer", textContent: "Answer"}),
    make("th", {textContent: "Score"}), make("th", {textContent: "Kept"}));
  const apart = sample.references.flatMap(one => [" | ", make("bdi", {textContent: one})]);
  const right = apart.length ? apart.slice(1) : ["–"];
  const text = make("div", {},
    make("p", {className: "question", dir: "auto", textContent: sample.question}),
    make("p", {className: "soft"}, "Right: ", ...right),
    make("p", {className: "soft", textContent: `${sample.id} · ${sample.why}${full ? " · marked: what differs from the full cache's answer" : ""}`}),
    make("div", {className: "scroll"}, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))));
  box.replaceChildren(make("div", {className: "sample"}, picture, text));
  paint();
}

function choice(label, names, key) {
  const select = make("select", {}, ...names.map((name, at) => make("option", {value: at, textContent: name})));
  select.value = shown[key];
  select.addEventListener("change", () => {
    shown[key] = Number(select.value);
    if (key === "table") { shown.column = 0; shown.at = firstDiffering(); controls(); }
    show();
  });
  return make("label", {}, label, select);
}

function controls() {
  const bar = document.getElementById("choose");
  const tables = DATA.samples.tables;
  const step = by => () => { shown.at += by; show(); };
  const button = (text, by) => {
    const one = make("button", {type: "button", textContent: text});
    one.addEventListener("click", step(by));
    return one;
  };
  const only = make("input", {type: "checkbox", checked: shown.only, id: "only"});
  only.addEventListener("change", () => { shown.only = only.checked; shown.at = 0; show(); });
  const parts = [];
  if (tables.length > 1) parts.push(choice("Table", tables.map(one => one.title), "table"));
  const names = tables[shown.table].columns;
  if (names.length) parts.push(choice(tables[shown.table].column_key, names, "column"));
  bar.replaceChildren(...parts, make("label", {}, only, "only where answers differ"),
    button("‹ previous", -1), make("span", {id: "place", className: "soft"}), button("next ›", 1));
}

if (document.getElementById("choose")) {
  shown.at = firstDiffering();
  controls();
  show();
  document.addEventListener("keydown", event => {
    if (event.target !== document.body || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") { shown.at -= 1; show(); }
    if (event.key === "ArrowRight") { shown.at += 1; show(); }
  });
}
