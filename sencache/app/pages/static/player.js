// The synced player. `props.value` is `Clips` of player.py; `lineStrip` comes from strip.js.
const root = $(".player"), grid = $(".grid"), seek = $(".seek"), play = $(".play"), frameText = $(".frame");
const stage = $(".stage"), canvas = $(".stage canvas"), swipe = $(".swipe"), mix = $(".mix"), gain = $(".gain");
const selectA = $(".lane-a"), selectB = $(".lane-b"), speed = $(".speed"), loop = $(".loop");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const unique = Math.random().toString(36).slice(2);
for (const radio of element.querySelectorAll("input[type=radio]")) radio.name += unique;

// Beyond the first the clock is corrected by speed, beyond the second by a jump; in seconds.
const NUDGE = 0.02, JUMP = 0.12;
// `wanted`: it plays; `going`: it would, were it in sight.
let lanes = [], frames = 1, wanted = false, going = false, seen = false, ticking = 0, shown = "";

// One that cannot be played must not hold up the others.
const videos = () => lanes.map((lane) => lane.video).filter((video) => !video.error);
const duration = () => videos().length ? Math.min(...videos().map((video) => video.duration || 0)) : 0;
const fps = () => frames / duration();
const view = () => $(".views input:checked").value;
const frameNow = () => {
  const at = duration() ? Math.floor(videos()[0].currentTime * fps() + 1e-6) : 0;
  return Math.min(Math.max(at, 0), frames - 1);
};
const strip = lineStrip($(".strip"), (frame) => goTo(frame));

// ---- time

function goTo(frame) {
  going = false;
  pause();
  setFrame(frame);
}

function setFrame(frame) {
  const to = Math.min(Math.max(frame, 0), frames - 1);
  if (!duration()) return;
  for (const video of videos()) video.currentTime = (to + 0.5) / fps();
  show(to);
}

function start() {
  if (!duration()) return;
  wanted = true;
  label();
  if (frameNow() === frames - 1) setFrame(0);
  for (const video of videos()) {
    video.playbackRate = Number(speed.value);
    video.play().catch(() => {});
  }
  cancelAnimationFrame(ticking);
  tick();
}

// Whoever pressed Play before the videos had come gets it then.
function ready() {
  if (going && seen && !wanted && videos().every((video) => video.readyState >= 3)) start();
}

function pause() {
  if (!wanted) return;
  wanted = false;
  label();
  for (const video of videos()) video.pause();
  setFrame(frameNow());
}

function label() {
  play.textContent = wanted ? "❚❚" : "▶";
  play.setAttribute("aria-label", wanted ? "Pause" : "Play");
  root.classList.toggle("playing", wanted);
}

function tick() {
  if (!wanted) return;
  const [clock, ...others] = videos();
  if (clock.ended || clock.currentTime >= duration() - 0.01) return atEnd();
  for (const video of others) follow(video, clock);
  show(frameNow());
  ticking = requestAnimationFrame(tick);
}

function follow(video, clock) {
  const ahead = video.currentTime - clock.currentTime, rate = Number(speed.value);
  if (Math.abs(ahead) > JUMP) video.currentTime = clock.currentTime;
  video.playbackRate = Math.abs(ahead) > NUDGE ? rate * (ahead > 0 ? 0.95 : 1.05) : rate;
}

function atEnd() {
  if (loop.getAttribute("aria-pressed") !== "true") {
    going = false;
    pause();
    return setFrame(frames - 1);
  }
  setFrame(0);
  start();
}

// ---- what is seen

function show(frame) {
  seek.value = frame;
  seek.setAttribute("aria-valuetext", `frame ${frame + 1} of ${frames}`);
  frameText.textContent = `${frame + 1} / ${frames}`;
  strip.mark(frame);
  for (const lane of lanes) lane.now.textContent = valuesAt(lane, frame);
  paint();
}

function valuesAt({ clip, video }, frame) {
  if (video.error) return "This video cannot be played here.";
  if (clip.reference) return "the reference";
  if (!clip.psnr.length) return "not measured";
  if (clip.psnr[frame] === null) return "identical frame";
  return `LPIPS ${clip.lpips[frame].toFixed(4)} · ${clip.psnr[frame].toFixed(1)} dB`;
}

function paint() {
  const now = view();
  if (now === "difference") for (const lane of lanes) paintDifference(lane);
  if (now === "swipe" || now === "onion") paintPair(now);
}

function fit(target, video) {
  if (target.width !== video.videoWidth) target.width = video.videoWidth;
  if (target.height !== video.videoHeight) target.height = video.videoHeight;
  return target.getContext("2d");
}

// "difference" is |lane − full run| per channel; CSS brightness multiplies it by the gain.
function paintDifference(lane) {
  const full = lanes.find((other) => other.clip.reference);
  if (!full || lane === full || !full.video.videoWidth || !lane.video.videoWidth) return;
  const context = fit(lane.canvas, full.video);
  context.globalCompositeOperation = "copy";
  context.drawImage(full.video, 0, 0);
  context.globalCompositeOperation = "difference";
  context.drawImage(lane.video, 0, 0, lane.canvas.width, lane.canvas.height);
}

function paintPair(now) {
  const a = lanes[selectA.value]?.video, b = lanes[selectB.value]?.video;
  if (!a?.videoWidth || !b?.videoWidth) return;
  const context = fit(canvas, a), { width, height } = canvas;
  context.globalAlpha = 1;
  context.drawImage(a, 0, 0, width, height);
  const cut = now === "swipe" ? Math.round(swipe.value / 100 * width) : 0;
  if (now === "onion") context.globalAlpha = mix.value / 100;
  context.save();
  context.beginPath();
  context.rect(cut, 0, width - cut, height);
  context.clip();
  context.drawImage(b, 0, 0, width, height);
  context.restore();
}

const NOTES = {
  grid: "",
  difference: "|lane − full run|, amplified; computed in your browser from the encoded videos. " +
    "LPIPS and PSNR are measured on the frames before encoding.",
  swipe: "Drag, or use the arrow keys, to move the border between two lanes.",
  onion: "Two lanes laid over each other.",
};

function choose() {
  const now = view();
  root.dataset.view = now;
  $(".note").textContent = NOTES[now];
  $(".gain-text").textContent = `×${2 ** gain.value}`;
  $(".mix-text").textContent = `${mix.value} % B`;
  root.style.setProperty("--gain", 2 ** gain.value);
  root.style.setProperty("--cut", `${swipe.value}%`);
  stage.setAttribute("aria-label", pairName());
  for (const [index, lane] of lanes.entries()) {
    const side = now !== "swipe" && now !== "onion" ? ""
      : `${index == selectA.value ? "A" : ""}${index == selectB.value ? "B" : ""}`;
    lane.figure.dataset.side = side;
  }
  paint();
}

function pairName() {
  const name = (select) => lanes[select.value]?.clip.name ?? "";
  $(".name-a").textContent = `A ${name(selectA)}`;
  $(".name-b").textContent = `${name(selectB)} B`;
  return `${name(selectA)} against ${name(selectB)}`;
}

// ---- building

function figure(clip, index, size) {
  const made = make("figure", grid), frame = make("div", made, "screen");
  const video = make("video", frame), difference = make("canvas", frame);
  Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: clip.video.url });
  video.setAttribute("aria-label", clip.name);
  difference.setAttribute("aria-hidden", "true");
  made.classList.toggle("reference", clip.reference);
  made.style.setProperty("--lane", hue(clip.method));
  frame.style.aspectRatio = `${size.width} / ${size.height}`;
  const caption = make("figcaption", made), name = make("b", caption, "", clip.name);
  name.title = clip.name;
  make("small", caption, "", clip.note);
  const now = make("small", caption, "now");
  made.onpointerenter = () => strip.emphasise(index);
  made.onpointerleave = () => strip.emphasise(null);
  video.onloadedmetadata = () => show(frameNow());
  video.onseeked = video.onloadeddata = paint;
  video.oncanplay = ready;
  video.onerror = () => { show(frameNow()); ready(); };
  return { clip, figure: made, video, canvas: difference, now };
}

function options(select, chosen) {
  select.replaceChildren();
  lanes.forEach((lane, index) => { make("option", select, "", lane.clip.name).value = index; });
  select.value = chosen;
}

function build() {
  const value = props.value ?? {}, clips = value.clips ?? [];
  const key = JSON.stringify(clips.map((clip) => [clip.name, clip.note, clip.video?.path]));
  if (key === shown) return;
  shown = key;
  wanted = false;
  label();
  for (const video of videos()) { video.removeAttribute("src"); video.load(); }
  grid.replaceChildren();
  frames = Math.max(1, value.frames || 1);
  seek.max = frames - 1;
  root.classList.toggle("empty", !clips.length);
  root.classList.toggle("pixels", value.width < 256);
  root.style.setProperty("--columns", columns(clips.length));
  lanes = clips.map((clip, index) => figure(clip, index, value));
  const reference = Math.max(0, clips.findIndex((clip) => clip.reference));
  const best = clips.findIndex((clip, index) => index !== reference && clip.focus);
  options(selectA, reference);
  options(selectB, best >= 0 ? best : Math.min(clips.length - 1, reference + 1));
  strip.build(clips, frames);
  choose();
  show(0);
  going = !calm.matches;
}

const columns = (count) => count <= 4 ? Math.max(count, 1) : count <= 6 ? 3 : count <= 8 ? 4 : 5;

play.onclick = () => {
  going = !wanted;
  if (wanted) pause(); else start();
};
$(".back").onclick = () => goTo(frameNow() - 1);
$(".forward").onclick = () => goTo(frameNow() + 1);
seek.oninput = () => goTo(Number(seek.value));
seek.onkeydown = (event) => {
  if (event.key !== " ") return;
  event.preventDefault();
  play.click();
};
speed.onchange = () => { for (const video of videos()) video.playbackRate = Number(speed.value); };
loop.onclick = () => loop.setAttribute("aria-pressed", String(loop.getAttribute("aria-pressed") !== "true"));
for (const input of element.querySelectorAll(".views input, .options input, .options select, .swipe")) {
  input.addEventListener("input", choose);
}
for (const input of element.querySelectorAll(".metrics input")) input.oninput = () => strip.metric(input.value);
// Out of sight it costs nothing; it goes on where it was.
new IntersectionObserver(([entry]) => {
  seen = entry.isIntersecting;
  if (seen) ready(); else pause();
}).observe(root);
build();
watch("value", build);
