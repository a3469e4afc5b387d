// The replay on the page "How it works"; the rule itself is in rule.js.
const run = props.value, total = run.timesteps.length;
const plot = $(".plot"), slider = $(".tolerance"), exact = $(".tolerance-exact"), cap = $(".reuses"), look = $(".step");
const LOWEST = 0.003, HIGHEST = 3, ENDS = Number(slider.max);
let tolerance = run.tolerance, steps = [], fixed = [];

const percent = (value) => `${(100 * value).toFixed(1)} %`;
const short = (value) => value === 0 ? "0" : String(Number(value.toPrecision(3)));
const at = (position) => position == 0 ? 0
  : Number((LOWEST * (HIGHEST / LOWEST) ** ((position - 1) / (ENDS - 1))).toPrecision(2));
const positionOf = (value) => value <= 0 ? 0
  : Math.min(ENDS, Math.max(1, Math.round(1 + (ENDS - 1) * Math.log(value / LOWEST) / Math.log(HIGHEST / LOWEST))));

function set(newTolerance, reuses = Number(cap.value)) {
  tolerance = newTolerance;
  cap.value = reuses;
  slider.value = positionOf(tolerance);
  slider.setAttribute("aria-valuetext", short(tolerance));
  if (document.activeElement !== exact) exact.value = Number(tolerance.toPrecision(6));
  update();
}

function update() {
  steps = replaySenCache(run, tolerance, Number(cap.value));
  const nfe = steps.filter(({ reuse }) => !reuse).length;
  fixed = fixedSteps(total, nfe);
  $(".reuses-text").textContent = cap.value;
  $(".nfe").textContent = `${nfe} of ${total}`;
  $(".ratio").textContent = `${Math.round(100 * (1 - nfe / total))} %`;
  $(".binds").textContent = whatBinds();
  cells($(".cells.sencache"), steps, "SenCache");
  cells($(".cells.fixed"), fixed, "Fixed interval");
  $(".error-sencache").textContent = `· error ${percent(meanError(run, steps))}`;
  $(".error-fixed").textContent = `· error ${percent(meanError(run, fixed))}`;
  draw();
  detail();
}

function whatBinds() {
  const count = (reason) => steps.filter((step) => step.reason === reason).length;
  const byTolerance = count("above_tolerance"), byCap = count("max_reuses");
  if (!byTolerance && !byCap) return "nothing asks for a new network run";
  return `tolerance ${byTolerance}×, cap n ${byCap}×`;
}

function cells(row, decided, name) {
  while (row.children.length < total) make("i", row);
  decided.forEach(({ reuse, step }) => {
    row.children[step].className = `${reuse ? "" : "computed"} ${step == look.value ? "chosen" : ""}`.trim();
  });
  const computed = decided.filter(({ reuse }) => !reuse).map(({ step }) => step + 1);
  row.setAttribute("aria-label", `${name}: ${computed.length} of ${total} steps computed: ${computed.join(", ")}`);
}

const WHY = {
  first_step: () => "the first step is always computed",
  max_reuses: () => `${cap.value} in a row were reused: computed, whatever the score`,
  above_tolerance: (s) => `score ${sum(s)} > ${short(s.limit)}: computed`,
  within_tolerance: (s) => `score ${sum(s)} ≤ ${short(s.limit)}: reused`,
};
const sum = (s) => `= ${short(run.alpha_x[s.reference])} · ${short(s.dx)} + ${short(run.alpha_t[s.reference])} · ${short(s.dt)}`
  + ` = ${short(s.x)} + ${short(s.t)} = ${short(s.score)}`;

function detail() {
  const s = steps[look.value];
  const against = s.reference === null ? "" : `, against step ${s.reference + 1} (t ${short(run.timesteps[s.reference])})`;
  const error = s.reuse ? ` The reused output is off by ${percent(run.output_change[s.step][s.reference])}.` : "";
  $(".detail").textContent = `Step ${s.step + 1} (t ${short(run.timesteps[s.step])})${against}: ${WHY[s.reason](s)}.${error}`;
  look.setAttribute("aria-valuetext", `step ${s.step + 1}, ${s.reuse ? "reused" : "computed"}`);
}

// ---- the plot

const left = () => matchMedia("(max-width: 640px)").matches ? 28 : 40;

function draw() {
  const width = plot.clientWidth, height = plot.clientHeight, gutter = left(), cell = (width - gutter) / total;
  if (width < 2 * gutter) return;
  const scores = steps.map(({ score }) => score), most = Math.max(...scores, 1e-3);
  // A tolerance far above every score is drawn on the upper border, or no bar could be seen.
  const top = 1.12 * Math.max(most, Math.min(tolerance, 1.6 * most)), floor = height - 18;
  const y = (value) => floor - (floor - 6) * Math.min(value / top, 1);
  plot.replaceChildren();
  const svg = makeSvg("svg", plot, { viewBox: `0 0 ${width} ${height}` });
  for (const tick of ticks(top)) {
    makeSvg("line", svg, { class: "grid-line", x1: gutter, x2: width, y1: y(tick), y2: y(tick) });
    makeSvg("text", svg, { x: gutter - 5, y: y(tick) + 4, "text-anchor": "end" }, short(tick));
  }
  makeSvg("text", svg, { x: gutter + 5, y: 11 }, "score");
  makeSvg("text", svg, { x: gutter - 5, y: height - 4, "text-anchor": "end" }, "step");
  change(svg, gutter, cell, floor);
  makeSvg("rect", svg, { class: "chosen", x: gutter + look.value * cell, y: 0, width: cell, height: floor });
  for (const s of steps) bar(svg, s, gutter + s.step * cell, cell, y);
  limit(svg, gutter, cell, y);
  for (let step = 1; step <= total; step += 7) makeSvg("text", svg, { x: gutter + (step - 0.5) * cell, y: height - 4, "text-anchor": "middle" }, step);
}

function ticks(top) {
  const power = 10 ** Math.floor(Math.log10(top / 3)), step = [1, 2, 5, 10].map((k) => k * power).find((size) => top / size <= 4.5);
  return Array.from({ length: Math.floor(top / step) + 1 }, (_, index) => index * step);
}

function change(svg, gutter, cell, floor) {
  const values = run.timesteps.map((_, step) => step ? run.output_change[step][step - 1] : 0), most = Math.max(...values);
  const points = values.slice(1).map((value, index) => `${gutter + (index + 1.5) * cell},${floor - 0.92 * floor * value / most}`);
  makeSvg("polygon", svg, { class: "change", points: `${gutter + 1.5 * cell},${floor} ${points.join(" ")} ${gutter + (total - 0.5) * cell},${floor}` });
}

function bar(svg, s, x, cell, y) {
  const place = { x: x + 0.14 * cell, width: 0.72 * cell };
  const box = (className, from, to) => makeSvg("rect", svg, { class: className, ...place, y: y(to), height: Math.max(y(from) - y(to), 0) });
  if (s.reason === "first_step") return;
  if (s.reason === "max_reuses") return box("forced", 0, s.score);
  box("bar-x", 0, s.x);
  box("bar-t", s.x, s.score);
}

function limit(svg, gutter, cell, y) {
  const points = steps.flatMap((s) => [`${gutter + s.step * cell},${y(s.limit)}`, `${gutter + (s.step + 1) * cell},${y(s.limit)}`]);
  makeSvg("polyline", svg, { class: "limit", points: points.join(" ") });
}

// ---- what the reader does

slider.oninput = () => set(at(slider.value));
exact.oninput = () => { if (exact.checkValidity() && exact.value !== "") set(Number(exact.value)); };
exact.onblur = () => { exact.value = Number(tolerance.toPrecision(6)); };
cap.oninput = update;
look.oninput = update;
$(".as-run").onclick = () => set(run.tolerance, run.max_reuses);
$(".zero").onclick = () => set(0);
$(".cap-only").onclick = () => set(100);
const point = (event) => {
  const box = plot.getBoundingClientRect(), gutter = left();
  const step = Math.floor((event.clientX - box.left - gutter) / (box.width - gutter) * total);
  if (step < 0 || step >= total || step == look.value) return;
  look.value = step;
  update();
};
plot.onpointermove = plot.onpointerdown = point;
look.max = total - 1;
look.value = Math.min(20, total - 1);
$(".source").textContent = `“${run.prompt}”, seed ${run.seed}, ${total} steps; sensitivities from ${run.profile}.`;
new ResizeObserver(draw).observe(plot);
set(run.tolerance, run.max_reuses);
