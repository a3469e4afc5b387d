// The table of numbers: rows from JSON as text, sorted by a click on a heading.
const head = $('thead tr'), body = $('tbody');
let by = null, up = true;

function paint() {
  const { columns = [], rows = [] } = props.value || {};
  if (by !== null && by >= columns.length) by = null;
  head.replaceChildren();
  make('th', head, '', 'Lane').scope = 'col';
  columns.forEach((column, index) => heading(column, index));
  body.replaceChildren();
  sorted(rows).forEach(line);
}

function heading(column, index) {
  const cell = make('th', head);
  cell.scope = 'col';
  cell.setAttribute('aria-sort', by !== index ? 'none' : up ? 'ascending' : 'descending');
  const button = make('button', cell, '', column.name);
  button.type = 'button';
  button.title = column.better ? `${column.explained}; ${column.better === 'high' ? 'higher' : 'lower'} is better` : column.explained;
  button.addEventListener('click', () => {
    up = by === index ? !up : column.better !== 'high';
    by = index;
    paint();
    head.querySelectorAll('button')[index].focus();
  });
}

function sorted(rows) {
  if (by === null) return rows;
  const last = (value) => (value === null ? Infinity : up ? value : -value);
  return [...rows].sort((a, b) => last(a.cells[by][1]) - last(b.cells[by][1]));
}

function line(row) {
  const tr = make('tr', body), th = make('th', tr);
  th.scope = 'row';
  make('i', th, 'swatch').style.setProperty('--hue', hue(row.method));
  make('span', th, '', row.label);
  for (const [text, , best] of row.cells) {
    const td = make('td', tr, best ? 'best' : '', text);
    if (best) td.title = 'best of all lanes';
  }
}

watch('value', paint);
paint();
