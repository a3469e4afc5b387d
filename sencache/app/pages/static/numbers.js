// The table of numbers: rows from JSON as text, sorted by a click on a heading.
const head = element.querySelector('thead tr'), body = element.querySelector('tbody');
let by = null, up = true;

const make = (tag, text, parent) => {
  const node = document.createElement(tag);
  node.textContent = text;
  parent.append(node);
  return node;
};

function paint() {
  const { columns = [], rows = [] } = props.value || {};
  if (by !== null && by >= columns.length) by = null;
  head.replaceChildren();
  make('th', 'Lane', head).scope = 'col';
  columns.forEach((column, index) => heading(column, index));
  body.replaceChildren();
  sorted(rows).forEach(line);
}

function heading(column, index) {
  const cell = make('th', '', head);
  cell.scope = 'col';
  cell.setAttribute('aria-sort', by !== index ? 'none' : up ? 'ascending' : 'descending');
  const button = make('button', column.name, cell);
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
  const tr = document.createElement('tr');
  const th = make('th', '', tr);
  th.scope = 'row';
  const swatch = make('i', '', th);
  swatch.className = 'swatch';
  swatch.style.setProperty('--hue', `var(--method-${/^[a-z-]+$/.test(row.method) ? row.method : 'none'})`);
  make('span', row.label, th);
  for (const [text, , best] of row.cells) {
    const td = make('td', text, tr);
    if (best) {
      td.className = 'best';
      td.title = 'best of all lanes';
    }
  }
  body.append(tr);
}

watch('value', paint);
paint();
