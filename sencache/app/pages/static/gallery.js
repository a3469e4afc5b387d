// The gallery's cards. `props.value` is `Cards` of gallery.py.
const root = $(".gallery-cards");
const FEW = 4, SMALL = 64;
let pressed = null;

function card(data, row) {
  const button = make("button", row, "card"), image = make("img", button), body = make("span", button, "body");
  button.type = "button";
  button.dataset.name = data.name;
  image.onload = () => image.classList.toggle("pixels", image.naturalWidth <= SMALL);
  Object.assign(image, { src: data.thumbnail.url, alt: "", width: SMALL, height: SMALL });
  make("b", body, "", data.title).title = data.title;
  make("small", body, "", data.setting);
  if (data.source) make("small", body, "source", data.source);
  for (const number of data.numbers) {
    const line = make("small", body, "number"), dot = make("i", line);
    dot.style.setProperty("--lane", hue(number.method));
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
  for (const button of root.querySelectorAll(".card")) button.setAttribute("aria-pressed", String(button.dataset.name === pressed));
}

// A row that holds more cards than a screen is wide scrolls.
function row(cards, title) {
  if (!cards.length) return;
  const section = make("section", root);
  if (title) make("p", section, "title", title);
  const line = make("div", section, "row");
  line.classList.toggle("many", cards.length > FEW);
  for (const data of cards) card(data, line);
}

function build() {
  const cards = props.value?.cards ?? [], elsewhere = cards.filter((data) => data.source);
  const scrolled = [...root.querySelectorAll(".row")].map((line) => line.scrollLeft);
  root.replaceChildren();
  row(elsewhere, `Recorded elsewhere (${elsewhere.length})`);
  row(cards.filter((data) => !data.source), elsewhere.length ? "Come with this software" : "");
  root.querySelectorAll(".row").forEach((line, n) => { line.scrollLeft = scrolled[n] ?? 0; });
  pressed = props.value?.open ?? pressed;
  mark();
}
build();
watch("value", build);
