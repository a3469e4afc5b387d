// What all components build with: theme.py puts it before each script. Every text goes through textContent.
const $ = (selector) => element.querySelector(selector);
const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };

function make(tag, parent, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

function makeSvg(tag, parent, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  parent.append(made);
  return made;
}

// The colour of a method, which palette.py defines for both themes.
const hue = (method) => `var(--method-${/^[a-z0-9_-]+$/.test(method) ? method : "none"})`;
