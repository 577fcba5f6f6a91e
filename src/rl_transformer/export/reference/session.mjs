// Act with an exported policy in Node or a browser.
//
//   const policy = await Policy.load(ort, rules, bytes)   // ort: onnxruntime-web or onnxruntime-node
//   const session = policy.session({ targetReturn: 10 })  // one live episode
//   const action = await session.act(observation)
//   session.observe(reward)
//
// `rules` is the parsed policy.json, `bytes` the content of one of its files. Arrays are flat, in row-major order.

const ARRAYS = { float32: Float32Array, float64: Float64Array, uint8: Uint8Array, bool: Uint8Array, int64: BigInt64Array,
  int32: Int32Array, int16: Int16Array, int8: Int8Array };
const product = (shape) => shape.reduce((a, b) => a * b, 1);
const filled = (port, shape, values) => {
  const array = new ARRAYS[port.dtype](product(shape));
  const convert = port.dtype === "int64" ? (value) => BigInt(Math.trunc(Number(value))) : Number;
  let place = 0;
  for (const value of values) array[place++] = convert(value);
  if (place !== array.length) throw new Error(`${port.name} has ${place} numbers, not ${array.length}`);
  return array;
};

export class Policy {
  constructor(ort, rules, file, model) {
    Object.assign(this, { ort, rules, model, inputs: rules.files[file].inputs, outputs: rules.files[file].outputs });
  }

  static async load(ort, rules, bytes, file = "policy.onnx") {
    const model = await ort.InferenceSession.create(new Uint8Array(bytes));
    return new Policy(ort, rules, file, model);
  }

  // targets: those of conditions beside the return, such as { cost_to_go: 25 }.
  // random: returns the next uniform number of this episode, for policies that sample their actions.
  session({ targetReturn = null, targets = {}, random = Math.random } = {}) {
    return new Session(this, targetReturn, targets, random);
  }
}

export class Session {
  constructor(policy, targetReturn, targets, random) {
    const rules = policy.rules;
    const isGenerated = rules.target === "generated"; // then 0 is replaced before it is read
    const names = rules.conditions.map(({ name }) => name);
    const given = targetReturn === null ? targets : { ...targets, return_to_go: targetReturn };
    const taken = isGenerated ? names.filter((name) => name !== "return_to_go") : names;
    const all = { return_to_go: isGenerated ? 0 : rules.default_target, ...given };
    if (Object.keys(given).some((name) => !taken.includes(name)) || !names.every((name) => Number.isFinite(all[name])))
      throw new Error(`this policy takes targets of: ${taken.join(", ")}`);
    this.conditions = Object.fromEntries(names.map((name) => [name, all[name]]));
    Object.assign(this, { policy, rules, random, step: 0, waits: false, frames: [] });
    this.ports = Object.fromEntries(policy.inputs.map((port) => [port.name, port]));
    const cache = this.ports.cache;
    this.cache = cache ? new ARRAYS[cache.dtype](product(cache.shape.slice(1))) : null;
    this.length = cache ? 2 : rules.window_length; // with a cache only the action before is read again
    this.window = { observations: [], actions: [], conditions: [], timesteps: [] };
  }

  // allowed: true at legal discrete actions. isFlat: the observation is a vector or image as the policy reads it.
  // Returns a number, or an array of numbers.
  async act(observation, allowed = null, isFlat = false) {
    if (this.waits) throw new Error("call observe(reward) after every action");
    if (allowed && !this.ports.allowed) throw new Error("the actions of this policy have no mask");
    const action = this.rules.action;
    const size = product(action.shape);
    const first = Array.isArray(action.first) ? action.first : Array(size).fill(action.first);
    const added = { observations: this.read(observation, isFlat), actions: first, timesteps: [this.step] };
    added.conditions = Object.values(this.conditions);
    for (const [name, values] of Object.entries(this.window)) {
      values.push(added[name]);
      if (values.length > this.length) values.shift();
    }
    const results = await this.policy.model.run(this.feed(allowed));
    if (!results.parameters.data.every(Number.isFinite)) throw new Error("the model's output is not finite");
    if (results.return_to_go) {
      this.conditions.return_to_go = Number(results.return_to_go.data[0]);
      this.window.conditions[this.window.conditions.length - 1] = Object.values(this.conditions);
    }
    if (this.cache) this.cache = results.next_cache.data;
    const chosen = Array.from(results.action.data, Number);
    this.parameters = results.parameters.data;
    this.window.actions[this.window.actions.length - 1] = chosen;
    this.waits = true;
    return action.space.kind === "discrete" ? chosen[0] : chosen;
  }

  // reward: null if it is not known. action: what was executed, if it was another action.
  observe(reward = null, action = null, outcomes = {}) {
    if (!this.waits) throw new Error("call act(observation) first");
    if (action !== null) this.window.actions[this.window.actions.length - 1] = [action].flat();
    for (const { name, outcome, update, clip } of this.rules.conditions) {
      const value = outcome === "reward" ? reward : outcomes[outcome];
      if (value === null || update === "keep") continue;
      if (!Number.isFinite(value)) throw new Error(`the ${outcome} is not finite`);
      this.conditions[name] -= clip === null ? value : Math.min(Math.max(value, -clip), clip);
    }
    this.step += 1;
    this.waits = false;
  }

  feed(allowed) {
    const { window, ports } = this;
    const time = window.timesteps.length;
    const last = (values) => values[values.length - 1];
    const values = this.cache
      ? { observation: last(window.observations), action_before: window.actions[0], conditions: last(window.conditions),
          timestep: [this.step], cache: this.cache }
      : { observations: window.observations, actions: window.actions, conditions: window.conditions,
          timesteps: window.timesteps, lengths: [time] };
    const feed = {};
    for (const port of Object.values(ports)) {
      const shape = port.shape.map((size) => (size === "batch" ? 1 : size === "time" ? time : size));
      let given = values[port.name];
      if (port.name === "allowed") given = allowed ?? Array(product(shape)).fill(true);
      if (port.name === "uniforms") given = Array.from({ length: product(shape) }, this.random);
      const flat = Array.isArray(given) && port.shape[1] === "time" ? given.flatMap((row) => Array.from(row)) : given;
      feed[port.name] = new this.policy.ort.Tensor(port.dtype, filled(port, shape, flat), shape);
    }
    return feed;
  }

  read(observation, isFlat) {
    const { flat_shape, space, image_axes, frame_stack } = this.rules.observation;
    const flat = isFlat ? observation : flatten(space, observation, image_axes);
    if (flat.length !== product(flat_shape) || !flat.every(Number.isFinite)) throw new Error("the observation is not one of the space");
    if (frame_stack === 1) return flat;
    this.frames = [...(this.frames.length ? this.frames : Array(frame_stack).fill(flat)).slice(1), flat];
    return this.frames.flatMap((frame) => Array.from(frame));
  }
}

// Return an observation as the policy reads it: a vector with discrete values as one-hot, or an image, channels first.
export function flatten(space, value, axes) {
  if (space.kind === "dict" || space.kind === "tuple")
    return space.parts.flatMap(([name, part]) => Array.from(flatten(part, value[name], axes)));
  if (space.kind === "discrete" || space.kind === "multi_discrete") {
    const [sizes, starts] = space.kind === "discrete" ? [[space.n], [space.start]] : [space.nvec, space.starts];
    return sizes.flatMap((n, i) => Array.from({ length: n }, (_, index) => (index === [value].flat()[i] - starts[i] ? 1 : 0)));
  }
  if (!axes) return value;
  // The place of each number of the result in `value`, by its index along each axis.
  const strides = axes.map((axis) => product(space.shape.slice(axis + 1)));
  const shape = axes.map((axis) => space.shape[axis]);
  return Array.from({ length: value.length }, (_, place) => {
    let source = 0;
    for (let axis = shape.length - 1; axis >= 0; axis -= 1) {
      source += (place % shape[axis]) * strides[axis];
      place = Math.floor(place / shape[axis]);
    }
    return value[source];
  });
}
