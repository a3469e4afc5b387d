// The gallery's cards. `props.value` is `Cards` of gallery.py; every text goes through textContent.
const root = element.querySelector(".gallery-cards");
const make = (tag, parent, className = "", text = "") => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  parent.append(made);
  return made;
};
let pressed = null;

function card(data) {
  const button = make("button", root, "card"), image = make("img", button), body = make("span", button, "body");
  button.type = "button";
  button.dataset.name = data.name;
  Object.assign(image, { src: data.thumbnail.url, alt: "", width: 64, height: 64 });
  make("b", body, "", data.title);
  make("small", body, "", data.setting);
  for (const number of data.numbers) {
    const line = make("small", body, "number"), dot = make("i", line);
    dot.style.setProperty("--lane", `var(--method-${number.method.replace(/[^a-z-]/g, "")})`);
    make("span", line, "", number.lane);
    make("span", line, "value", number.text);
  }
  button.onclick = () => {
    pressed = data.name;
    mark();
    trigger("pick", { name: data.name });
  };
}

function mark() {
  for (const button of root.children) button.setAttribute("aria-pressed", String(button.dataset.name === pressed));
}

function build() {
  root.replaceChildren();
  for (const data of props.value?.cards ?? []) card(data);
  pressed = props.value?.open ?? pressed;
  mark();
}
build();
watch("value", build);
