"use strict";
/* Curves: one uPlot chart per table, and per measure of speed and memory. Everything that is shown as text is set as text, never as HTML. */
const DATA = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const make = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};
/* A method's colour; on a dark page mixed with white, so that all are told apart. */
const shade = color => {
  if (!dark.matches) return color;
  if (color === "#000000") return style("--ink");
  const parts = [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));
  return "#" + parts.map(x => Math.round(x + (255 - x) * .38).toString(16).padStart(2, "0")).join("");
};
const hidden = new Set();
const keyOf = line => line.toggle ?? line.name; /* what a chip hides: a method, or all ways of decoding with one */
const GROUPS = [["panels", "methods", DATA.curves], ["speed", "ways", DATA.efficiency]]; /* where charts and their chips are */
let showPaper = true, charts = [];

function chart(holder, table, many) {
  const log = table.log && table.x.length > 1;
  const single = table.x.length === 1;
  const columns = [table.x], series = [{}], bands = [];
  for (const line of table.lines) {
    const color = shade(line.color), method = keyOf(line), show = !hidden.has(method);
    const at = series.length;
    const bound = {show, stroke: "transparent", width: 0, points: {show: false}, method};
    columns.push(line.high, line.low, line.y);
    series.push({...bound}, {...bound}, {
      show, method, stroke: color, width: 2, dash: line.dash,
      points: {show: single || !line.constant, size: 7, fill: color, stroke: color}, spanGaps: false,
    });
    bands.push({series: [at, at + 1], fill: color + "1c"});
    if (line.paper) {
      columns.push(line.paper);
      series.push({
        show: show && showPaper, method, paper: true, stroke: color, width: 1, dash: [2, 4],
        points: {show: single || !line.constant, size: 7, fill: style("--card"), stroke: color, width: 1.2}, spanGaps: false,
      });
    }
  }
  const tip = make("div", {className: "tip", hidden: true});
  const axis = {stroke: style("--soft"), grid: {stroke: style("--faint"), width: 1}, ticks: {show: false}, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif"};
  const first = table.x[0], last = table.x[table.x.length - 1];
  const plot = new uPlot({
    width: Math.max(240, holder.clientWidth - 20), height: many ? 270 : 340, legend: {show: false}, series, bands,
    padding: [10, 14, 0, 0],
    cursor: {drag: {x: false, y: false}, points: {size: 9}, y: false},
    scales: {
      x: log ? {time: false, distr: 3, log: 2, range: () => [first / 1.12, last * 1.12]}
             : {time: false, range: () => [first - .3, last + .3]},
      ...(table.zero ? {y: {range: (_, low, high) => [0, (high || 1) * 1.08]}} : {}),
    },
    axes: [
      {...axis, grid: {show: false}, label: table.xlabel, labelSize: 22, size: 30,
        splits: () => table.x, filter: (_, all) => all, values: () => table.ticks},
      {...axis, size: 46},
    ],
    hooks: {setCursor: [u => point(u, table, tip)]},
  }, columns, holder);
  plot.over.append(tip);
  plot.over.addEventListener("mouseleave", () => { tip.hidden = true; });
  return plot;
}

function point(plot, table, tip) {
  const at = plot.cursor.idx;
  if (at === null || at === undefined || plot.cursor.left < 0) { tip.hidden = true; return; }
  const shown = value => value.toFixed(table.digits);
  const lines = table.lines.filter(line => !hidden.has(keyOf(line)) && line.y[at] !== null);
  lines.sort((a, b) => b.y[at] - a.y[at]);
  tip.replaceChildren(make("b", {textContent: `${table.column_key} ${table.ticks[at]}`}), ...lines.map(line => {
    const dot = make("i");
    dot.style.background = shade(line.color);
    const between = line.low[at] === null ? "" : ` (${shown(line.low[at])}–${shown(line.high[at])})`;
    const paper = showPaper && line.paper && line.paper[at] !== null ? `, paper ${shown(line.paper[at])}` : "";
    return make("div", {}, dot, `${line.name} ${shown(line.y[at])}${between}${paper}`);
  }));
  tip.hidden = lines.length === 0;
  const {left: edge, width} = plot.over.getBoundingClientRect(), left = plot.cursor.left, own = tip.offsetWidth;
  const beside = left < width / 2 ? left + 14 : left - 14 - own;
  const most = document.documentElement.clientWidth - 8 - edge - own;
  tip.style.top = "6px";
  tip.style.left = `${Math.max(8 - edge, Math.min(beside, most))}px`;
}

function drawCharts() {
  charts.forEach(one => one.destroy());
  charts = GROUPS.flatMap(([id, , tables]) => {
    const panels = document.getElementById(id);
    if (!panels) return [];
    panels.replaceChildren();
    const holders = tables.map(table => {
      const panel = make("div", {className: "panel"},
        make("h3", {}, table.task, make("small", {textContent: ` ${table.metric}${table.model ? ", " + table.model : ""}`})));
      panel.dataset.model = table.owner;
      if (!table.zero) panel.dataset.task = table.task;
      panels.append(panel);
      return panel;
    });
    return tables.map((table, at) => chart(holders[at], table, tables.length > 1)); /* the grid has its widths now */
  });
}

function paint() {
  for (const node of document.querySelectorAll("[data-color]"))
    node.style.setProperty("--swatch", shade(node.dataset.color));
}

function apply() {
  for (const plot of charts) {
    plot.batch(() => plot.series.forEach((one, at) => {
      if (!one.method) return;
      const show = !hidden.has(one.method) && (!one.paper || showPaper);
      if (one.show !== show) plot.setSeries(at, {show});
    }));
  }
}

function chips(box, tables) {
  if (!box) return;
  const known = new Map();
  let paper = false;
  for (const table of tables) for (const line of table.lines) {
    if (!known.has(keyOf(line))) known.set(keyOf(line), line);
    paper = paper || Boolean(line.paper);
  }
  const chip = (name, color, toggle) => {
    const button = make("button", {type: "button"}, name);
    button.setAttribute("aria-pressed", "true");
    if (color) { const dot = make("i"); dot.dataset.color = color; button.prepend(dot); }
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      toggle(on);
      apply();
    });
    return button;
  };
  for (const [key, line] of known)
    box.append(chip(line.chip ?? line.name, line.color, on => on ? hidden.delete(key) : hidden.add(key)));
  if (!paper) return;
  const last = chip("the paper's points (hollow, dotted)", "", on => {
    showPaper = on;
    document.querySelectorAll(".chips .paper").forEach(one => one.setAttribute("aria-pressed", String(on)));
  });
  last.className = "paper";
  box.append(last);
}

for (const [, id, tables] of GROUPS) chips(document.getElementById(id), tables);
drawCharts();
paint();
dark.addEventListener("change", () => { drawCharts(); paint(); });
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  drawCharts();
});
