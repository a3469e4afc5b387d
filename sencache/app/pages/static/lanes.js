// Live lanes. The template is fixed; this script makes the rows once per run and then only changes cells.
const rowsBox = $('.lanes-rows'), why = $('.why'), live = $('[role=status]');
let rows = [], shape = '', looked = null, told = -1;

const figure = (value) => value === null ? '–' : Number(value).toPrecision(4).replace(/(\.\d*?)0+($|e)/, '$1$2').replace(/\.($|e)/, '$1');
const lanes = () => (props.value && props.value.lanes) || [];

function build() {
  rowsBox.replaceChildren();
  rows = lanes().map((lane, index) => row(lane, index));
  look(null);
  told = -1;
}

function row(lane, index) {
  const box = make('div', rowsBox, 'lane');
  box.style.setProperty('--hue', hue(lane.method));
  const name = make('div', box, 'lane-name');
  make('i', name, 'swatch');
  make('span', name, 'lane-label', lane.label);
  const settings = make('span', name, 'lane-settings');
  const track = make('div', box, 'track');
  const figures = make('div', box, 'lane-figures');
  const [nfe, clock, speed] = ['nfe', 'clock', 'speed'].map((part) => make('span', figures, part));
  listen(track, index);
  return { box, settings, track, nfe, clock, speed, cells: [], text: '', read: [] };
}

function paint() {
  const value = props.value || {};
  const now = lanes().map((lane) => lane.name).join('\n') + (lanes()[0] ? lanes()[0].steps : '');
  const shrunk = rows.some((r, i) => lanes()[i] && !lanes()[i].cells.startsWith(r.text));
  if (now !== shape || shrunk) { shape = now; build(); }
  write($('.lanes-title'), value.title || '');
  write($('.lanes-about'), value.about || '');
  lanes().forEach((lane, index) => update(rows[index], lane));
  $('.lanes').classList.toggle('empty', !lanes().length);
  announce();
  if (looked) tell();
}

function update(r, lane) {
  if (r.cells.length !== lane.steps) {
    r.track.replaceChildren();
    r.track.style.setProperty('--steps', lane.steps || 1);
    r.cells = Array.from({ length: lane.steps }, () => make('i', r.track, 'cell'));
    r.text = '';
    r.read = [];
    r.track.tabIndex = lane.steps ? 0 : -1;
    if (lane.steps) slider(r.track, lane);
  }
  for (const line of lane.cells.slice(r.text.length).split('\n')) {
    if (!line) continue;
    const cell = JSON.parse(line);
    r.cells[r.read.length].className = cell[0] ? 'cell c' : 'cell r';
    r.read.push(cell);
  }
  r.text = lane.cells;
  write(r.settings, lane.settings);
  write(r.nfe, lane.steps ? `${lane.nfe}/${lane.steps}` : '–');
  write(r.clock, lane.seconds ? `${lane.seconds.toFixed(2)} s` : '–');
  write(r.speed, lane.speedup ? `${lane.speedup.toFixed(2)}×` : '–');
  r.box.dataset.state = lane.state;
}

function slider(track, lane) {
  track.setAttribute('role', 'slider');
  track.setAttribute('aria-label', `${lane.label}: steps`);
  track.setAttribute('aria-valuemin', 1);
  track.setAttribute('aria-valuemax', lane.steps);
  track.setAttribute('aria-valuenow', 1);
}

function announce() {
  const total = lanes().reduce((sum, lane) => sum + lane.steps, 0);
  if (!total) return;
  const quarter = Math.floor(4 * lanes().reduce((sum, lane) => sum + lane.taken, 0) / total);
  if (quarter !== told) write(live, `${25 * quarter} percent of all steps done`);
  told = quarter;
}

function listen(track, index) {
  const at = (event) => {
    const box = track.getBoundingClientRect(), steps = lanes()[index].steps;
    return Math.min(steps - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * steps)));
  };
  track.addEventListener('pointermove', (event) => look({ lane: index, step: at(event) }));
  track.addEventListener('pointerdown', (event) => look({ lane: index, step: at(event) }));
  track.addEventListener('focus', () => look({ lane: index, step: looked && looked.lane === index ? looked.step : 0 }));
  track.addEventListener('keydown', (event) => {
    const last = lanes()[index].steps - 1, from = looked ? looked.step : 0;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, ArrowDown: from - 1, ArrowUp: from + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    look({ lane: index, step: Math.min(last, Math.max(0, to)) });
  });
}

function look(place) {
  if (place && !lanes()[place.lane].steps) return;
  if (looked && rows[looked.lane] && rows[looked.lane].cells[looked.step]) rows[looked.lane].cells[looked.step].classList.remove('at');
  looked = place;
  why.hidden = !place;
  $('.why-empty').hidden = !!place;
  if (place) tell();
}

function tell() {
  const lane = lanes()[looked.lane], r = rows[looked.lane], cell = r.read[looked.step];
  if (r.cells[looked.step]) r.cells[looked.step].classList.add('at');
  rowsBox.style.setProperty('--at', (looked.step + 0.5) / lane.steps);
  why.style.setProperty('--hue', r.box.style.getPropertyValue('--hue'));
  write(why.querySelector('strong'), lane.label);
  const place = `step ${looked.step + 1} of ${lane.steps}`;
  r.track.setAttribute('aria-valuenow', looked.step + 1);
  if (!cell) {
    write(why.querySelector('.why-head span'), place);
    write(why.querySelector('.why-reason'), 'not reached yet');
    why.querySelector('.why-head i').className = 'cell';
    why.querySelector('.why-score').hidden = true;
    why.querySelector('dl').replaceChildren();
    r.track.setAttribute('aria-valuetext', `${place}, not reached yet`);
    return;
  }
  const [computed, code, t, score, tolerance, drift, ms, terms, signals] = cell;
  const reason = (props.value.reasons || {})[code] || code;
  const said = reason.startsWith(computed ? 'computed' : 'reused') || code === 'first_step' ? reason : `${computed ? 'computed' : 'reused'} ${reason}`;
  write(why.querySelector('.why-head span'), `${place}, timestep ${t}`);
  why.querySelector('.why-head i').className = computed ? 'cell c' : 'cell r';
  write(why.querySelector('.why-reason'), said);
  scoreBar(score, tolerance, terms);
  facts([...signals, ...(drift === null ? [] : [['drift from the full run', drift]]), ['milliseconds', ms]]);
  const held = score === null ? '' : `, score ${figure(score)} against ${figure(tolerance)}`;
  r.track.setAttribute('aria-valuetext', `${place}, ${said}${held}`);
}

function scoreBar(score, tolerance, terms) {
  const box = why.querySelector('.why-score'), [first, second] = box.querySelectorAll('b');
  box.hidden = score === null || tolerance === null;
  if (box.hidden) return;
  const scale = 100 / (1.15 * Math.max(score, tolerance, 1e-12));
  first.style.width = `${(terms.length ? terms[0][1] : score) * scale}%`;
  second.style.width = terms.length ? `${terms[1][1] * scale}%` : '0';
  box.querySelector('i').style.left = `${tolerance * scale}%`;
  const sum = terms.map(([name, value]) => `${name} ${figure(value)}`).join(' + ');
  write(box.querySelector('p'), `score ${figure(score)}${sum ? ` = ${sum}` : ''}, tolerance ${figure(tolerance)}`);
}

function facts(pairs) {
  const list = why.querySelector('dl');
  list.replaceChildren();
  for (const [name, value] of pairs) {
    const pair = make('div', list);
    make('dt', pair, '', name);
    make('dd', pair, '', figure(value));
  }
}

// After Cancel an update may still be on its way; what is finished, as a card's comparison is, is shown.
const underWay = () => lanes().some((lane) => lane.state === 'running' || lane.state === 'waiting');
watch('value', () => { if (!('stopped' in document.body.dataset && underWay())) paint(); });
paint();
