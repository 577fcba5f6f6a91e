// Episodes whose environment and policy run in this browser; nothing is computed elsewhere.

import * as ort from "./ort/ort.wasm.min.mjs";
import { Policy } from "./policy/session.mjs";
import { WORLDS, randomFrom } from "./worlds.mjs";

const fetched = async (name) => {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} cannot be read (${answer.status})`);
  return answer;
};

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1;
const about = await (await fetched("play.json")).json();
const rules = await (await fetched("policy/policy.json")).json();
const policy = await Policy.load(ort, rules, await (await fetched("policy/policy.onnx")).arrayBuffer());
const world = new WORLDS[about.world.name](about.world);

let session = null;
let observation = null;
let steps = 0;
let achieved = 0;

const shown = (action, reward, over) => ({
  step: steps,
  frame: null,
  draw: (canvas) => world.draw(canvas),
  observation,
  action: action === null ? null : [action].flat(),
  reward,
  achieved,
  return_to_go: session.conditions.return_to_go ?? null,
  over,
  attention: null,
});

export const describe = async () => about;

export async function begin(target, seed) {
  const random = randomFrom(seed);
  session = policy.session(target === null ? { random } : { targetReturn: target, random });
  observation = world.reset(random);
  steps = 0;
  achieved = 0;
  return shown(null, null, false);
}

export async function step() {
  const action = await session.act(observation);
  const outcome = world.step(action);
  session.observe(outcome.reward);
  observation = outcome.observation;
  steps += 1;
  achieved += outcome.reward;
  return shown(action, outcome.reward, outcome.over);
}
