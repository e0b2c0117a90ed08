// The utterance page: one time axis over waveform, spectrogram and codes, and the player's place on it. Without a script everything
// is there to see and hear; what is missing is zoom, the readout, and going along by keys.
"use strict";

const LEVELS = [1, 2, 4, 8, 16, 32];
const LETTER_PX = 6.6; // of a digit at 11 px

const axis = document.getElementById("axis");
if (axis) follow(axis, document.getElementById("stack"), document.getElementById("player"), document.getElementById("said"));

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea, audio") || event.ctrlKey || event.metaKey || event.altKey) return;
  const rel = { n: "next", p: "prev" }[event.key];
  const link = rel && document.querySelector(`a[rel=${rel}]`);
  if (link) link.click();
});

function follow(axis, stack, player, said) {
  const seconds = Number(axis.dataset.seconds);
  const spans = [...stack.querySelectorAll(".span")];
  const lanes = [...stack.querySelectorAll("svg[tabindex]")].map((lane) => ({ lane, spans: [...lane.querySelectorAll(".span")] }));
  const head = document.getElementById("head");
  const cross = document.getElementById("cross");
  let level = 0;
  let marked = null;

  const start = (span) => Number(span.dataset.at);
  const end = (span) => Number(span.dataset.end);
  const percent = (at) => `${(100 * at) / seconds}%`;

  function put(line, at) {
    line.setAttribute("x1", percent(at));
    line.setAttribute("x2", percent(at));
  }

  function mark(span) {
    if (marked) marked.classList.remove("on");
    marked = span;
    if (!span) return;
    span.classList.add("on");
    said.textContent = span.dataset.say;
    said.classList.add("on");
  }

  // A number that does not fit into its block would be read as part of its neighbour's.
  function fit() {
    const width = stack.clientWidth;
    for (const span of spans) {
      const text = span.querySelector("text");
      const letter = span.classList.contains("word") ? LETTER_PX * 1.3 : LETTER_PX;
      if (text) span.classList.toggle("tight", ((end(span) - start(span)) / seconds) * width < text.textContent.length * letter + 4);
    }
  }

  function zoom(step) {
    const next = step === 0 ? 0 : Math.min(LEVELS.length - 1, Math.max(0, level + step));
    const middle = marked ? (start(marked) + end(marked)) / 2 / seconds : (axis.scrollLeft + axis.clientWidth / 2) / stack.clientWidth;
    stack.classList.replace(`zoom-${LEVELS[level]}`, `zoom-${LEVELS[next]}`);
    level = next;
    axis.scrollLeft = middle * stack.clientWidth - axis.clientWidth / 2;
    fit();
  }

  function at(event) {
    const box = stack.getBoundingClientRect();
    return Math.min(seconds, Math.max(0, ((event.clientX - box.left) / box.width) * seconds));
  }

  function seek(time) {
    player.currentTime = time;
    put(head, time);
  }

  function keepInView(time) {
    const place = (time / seconds) * stack.clientWidth;
    if (place < axis.scrollLeft || place > axis.scrollLeft + axis.clientWidth) axis.scrollLeft = place - axis.clientWidth / 4;
  }

  function unitAt(time) {
    return lanes.length ? lanes[0].spans.find((span) => start(span) <= time && time < end(span)) : null;
  }

  stack.addEventListener("pointermove", (event) => {
    put(cross, at(event));
    const span = event.target.closest(".span");
    if (span && event.pointerType === "mouse") mark(span);
  });
  stack.addEventListener("pointerleave", () => put(cross, -seconds));
  stack.addEventListener("click", (event) => {
    const span = event.target.closest(".span");
    mark(span || unitAt(at(event)));
    seek(span ? start(span) : at(event));
  });
  for (const { lane, spans: own } of lanes) {
    lane.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) {
        const now = own.includes(marked) ? own.indexOf(marked) + step : 0;
        mark(own[Math.min(own.length - 1, Math.max(0, now))]);
        seek(start(marked));
        keepInView(start(marked));
        event.preventDefault();
      } else if (event.key === "Enter") {
        player.play();
      }
    });
  }
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));

  function tick() {
    put(head, player.currentTime);
    mark(unitAt(player.currentTime) || marked);
    keepInView(player.currentTime);
    if (!player.paused && !player.ended) requestAnimationFrame(tick);
  }
  player.addEventListener("play", tick);
  player.addEventListener("seeked", () => put(head, player.currentTime));
  addEventListener("resize", fit);
  fit();
}
