// Lines per frame, one per lane, aligned with a range input whose thumb is `2 * PAD` wide.
function lineStrip(holder, onPick) {
  const PAD = 10, HEIGHT = 92, TOP = 12, BOTTOM = 8;
  const plot = holder.querySelector(".plot"), marker = holder.querySelector(".marker");
  const scale = holder.querySelector(".scale");
  let clips = [], frames = 1, metric = "psnr", at = 0;

  const left = (frame, width) => PAD + (width - 2 * PAD) * (frames > 1 ? frame / (frames - 1) : 0.5);
  const text = ([low, high]) => metric === "psnr"
    ? `per frame, ${low.toFixed(1)} to ${high.toFixed(1)} dB, up is closer to the full run; ○ identical`
    : `per frame, 0 to ${high.toFixed(4)}, down is closer to the full run`;

  function range() {
    const values = clips.flatMap((clip) => clip[metric].filter((value) => value !== null));
    if (!values.length) return null;
    const bottom = metric === "lpips" ? 0 : Math.min(...values), top = Math.max(...values);
    return top > bottom ? [bottom, top] : [bottom - 0.5, bottom + 0.5];
  }

  function draw() {
    const width = plot.clientWidth, bounds = range();
    plot.replaceChildren();
    const svg = makeSvg("svg", plot, { viewBox: `0 0 ${Math.max(width, 1)} ${HEIGHT}`, "aria-hidden": "true" });
    scale.textContent = bounds ? text(bounds) : "every frame of every lane is identical to the full run";
    const y = (value) => value === null ? 5
      : HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - bounds[0]) / (bounds[1] - bounds[0]);
    const used = new Map();
    clips.forEach((clip, index) => {
      const values = clip[metric], repeated = used.get(clip.method) ?? 0;
      used.set(clip.method, repeated + 1);
      const group = makeSvg("g", svg, { style: `--lane:${hue(clip.method)}`, "data-lane": index });
      line(group, values, y, width, repeated);
      identical(group, values, y, width);
    });
    mark(at);
  }

  function line(group, values, y, width, repeated) {
    let path = "", open = false;
    values.forEach((value, frame) => {
      if (value !== null) path += `${open ? "L" : "M"}${left(frame, width).toFixed(1)} ${y(value).toFixed(1)}`;
      open = value !== null;
    });
    if (path) makeSvg("path", group, { d: path, "stroke-dasharray": repeated ? "5 3" : "none" });
  }

  // A frame without any error has no PSNR: it is a ring on the upper border, never a number.
  function identical(group, values, y, width) {
    if (metric !== "psnr") return;
    values.forEach((value, frame) => {
      if (value === null) makeSvg("circle", group, { cx: left(frame, width), cy: y(null), r: 3 });
    });
  }

  function mark(frame) {
    at = frame;
    marker.style.left = `${left(frame, plot.clientWidth)}px`;
  }

  plot.onpointerdown = (event) => {
    const box = plot.getBoundingClientRect(), inner = box.width - 2 * PAD;
    onPick(Math.round((event.clientX - box.left - PAD) / inner * (frames - 1)));
  };
  new ResizeObserver(draw).observe(plot);
  return {
    mark,
    build(newClips, count) {
      clips = newClips;
      frames = count;
      holder.hidden = !clips.some((clip) => clip.psnr.length);
      draw();
    },
    metric(name) {
      metric = name;
      draw();
    },
    emphasise(index) {
      for (const group of plot.querySelectorAll("g")) {
        group.classList.toggle("faded", index !== null && group.dataset.lane !== String(index));
      }
    },
  };
}
