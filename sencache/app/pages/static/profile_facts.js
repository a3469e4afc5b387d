// What a profile says of itself. `props.value` comes from profile_facts.py.
const root = $(".profile-facts");

function download(value) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([value.json], { type: "application/json" }));
  link.download = value.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function build() {
  const value = props.value ?? {};
  root.replaceChildren();
  if (!value.name) return;
  const head = make("div", root, "head");
  make("h3", head, "", value.name);
  const serves = make("p", head, "serves", value.serves.length ? "serves" : "serves no method");
  for (const method of value.serves) make("span", serves, "", method);
  for (const text of value.warnings) make("p", root, "warning", text);
  const list = make("dl", root);
  for (const [label, text] of value.rows) {
    const row = make("div", list);
    make("dt", row, "", label);
    make("dd", row, "", text);
  }
  const button = make("button", root, "", "Download JSON");
  button.type = "button";
  button.onclick = () => download(value);
}
build();
watch("value", build);
