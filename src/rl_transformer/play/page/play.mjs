// The page: controls, the picture, the chart of target and achieved return, and attention.
// Episodes come from the server, or, in an exported folder, from the policy and the world inside this browser.

const element = (id) => document.getElementById(id);
const isStatic = document.documentElement.dataset.source === "browser";
const episodes = await import(isStatic ? "./browser_episode.mjs" : "./server_episode.mjs");

let about = null;
let timer = null;
let isOver = true;
let isBusy = false;
let chart = null;
let series = [[], [], []]; // steps, return-to-go, achieved return

const format = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(5)).toString());

function say(text) {
  element("message").textContent = text;
}

async function guarded(work) {
  if (isBusy) return; // a click while the last one is answered would step twice
  isBusy = true;
  try {
    await work();
  } catch (error) {
    pause();
    say(error.message);
  } finally {
    isBusy = false;
  }
}

function show(state) {
  isOver = state.over;
  if (state.frame) {
    element("frame").src = state.frame;
    element("frame").hidden = false;
  } else if (state.draw) {
    element("world").hidden = false;
    state.draw(element("world"));
  } else {
    element("no-picture").hidden = false;
  }
  const numbers = {
    step: state.step,
    "achieved return": format(state.achieved),
    "return-to-go": format(state.return_to_go),
    reward: format(state.reward),
    action: state.action ? state.action.map(format).join(", ") : "–",
    observation: state.observation ? state.observation.map(format).join(", ") : "–",
  };
  const list = element("numbers");
  list.replaceChildren();
  for (const [name, value] of Object.entries(numbers)) {
    const term = document.createElement("dt");
    term.textContent = name;
    const text = document.createElement("dd");
    text.textContent = value;
    list.append(term, text);
  }
  series[0].push(state.step);
  series[1].push(state.return_to_go);
  series[2].push(state.achieved);
  chart.setData(series);
  if (state.attention) drawAttention(state.attention);
  if (isOver) {
    pause();
    say(`The episode is over: return ${format(state.achieved)} after ${state.step} steps.`);
  }
}

function drawAttention({ tokens, weights }) {
  element("attention-box").hidden = false;
  const largest = Math.max(...weights.flat());
  const rows = tokens.map((name, token) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.textContent = name.replaceAll("_", "-");
    row.append(head);
    weights.forEach((step, index) => {
      const cell = document.createElement("td");
      const share = step[token];
      cell.style.background = `rgba(40, 90, 200, ${largest > 0 ? share / largest : 0})`;
      const back = weights.length - 1 - index;
      cell.title = `${name}, ${back === 0 ? "this step" : `${back} steps before`}: ${(100 * share).toFixed(1)} %`;
      row.append(cell);
    });
    return row;
  });
  element("attention").replaceChildren(...rows);
}

function newChart() {
  series = [[], [], []];
  element("chart").replaceChildren();
  const width = element("chart").clientWidth || 480;
  const lines = [{ label: "step" }];
  lines.push({ label: "return-to-go", stroke: "#c05621", width: 2, show: about.takes_target });
  lines.push({ label: "achieved return", stroke: "#285ac8", width: 2 });
  chart = new uPlot({ width, height: 240, scales: { x: { time: false } }, series: lines, axes: [{ label: "step" }, {}] }, series, element("chart"));
}

async function reset() {
  pause();
  say("");
  const seed = element("seed").valueAsNumber;
  if (!Number.isInteger(seed)) throw new Error("The seed is no whole number.");
  const target = about.takes_target ? element("target").valueAsNumber : null;
  const state = await episodes.begin(target, seed);
  newChart();
  element("attention-box").hidden = true;
  show(state);
}

async function step() {
  if (isOver) await reset();
  else show(await episodes.step());
}

function pause() {
  clearTimeout(timer);
  timer = null;
  element("play").textContent = "Play";
}

async function run() {
  await guarded(step);
  if (timer !== null && !isOver) timer = setTimeout(run, 1000 / Math.max(1, element("speed").valueAsNumber || 8));
}

function togglePlay() {
  if (timer !== null) return pause();
  element("play").textContent = "Pause";
  timer = setTimeout(run, 0);
}

function prepareTarget() {
  const slider = element("target");
  if (!about.takes_target) {
    element("target-label").hidden = true;
    return;
  }
  const span = Math.max(about.high - about.low, 1e-6);
  slider.min = about.low;
  slider.max = about.high + 0.25 * span; // a little beyond the data, where it may be wrong
  const showTarget = () => (element("target-value").textContent = format(slider.valueAsNumber) + (slider.valueAsNumber > about.high + 1e-6 * span ? " (beyond the data)" : ""));
  slider.addEventListener("input", showTarget);
  slider.addEventListener("change", () => guarded(reset));
  for (const target of about.targets) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = format(target);
    button.addEventListener("click", () => {
      slider.value = target;
      showTarget();
      guarded(reset);
    });
    element("marks").append(button);
  }
  slider.value = about.default_target ?? about.targets.at(-1) ?? about.high;
  showTarget();
}

await guarded(async () => {
  about = await episodes.describe();
  element("environment").textContent = about.environment;
  element("policy").textContent = about.text;
  document.title = `${about.environment}: play`;
  prepareTarget();
  element("play").addEventListener("click", togglePlay);
  element("step").addEventListener("click", () => guarded(step));
  element("reset").addEventListener("click", () => guarded(reset));
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  await reset();
});
document.body.dataset.ready = "true";
