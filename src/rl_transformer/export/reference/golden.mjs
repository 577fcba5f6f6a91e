// Compare an exported policy with its recorded steps, in Node:
//
//   node golden.mjs [DIR] [policy_step.onnx]     with onnxruntime-web or onnxruntime-node installed

import { readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { Policy } from "./session.mjs";

const READERS = { "|b1": Uint8Array, "|u1": Uint8Array, "|i1": Int8Array, "<f4": Float32Array, "<f8": Float64Array,
  "<i8": BigInt64Array, "<i4": Int32Array, "<i2": Int16Array };

// Return the arrays of an uncompressed .npz file by name: { shape, row(index) }.
function readNpz(buffer) {
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  let end = buffer.length - 22;
  while (view.getUint32(end, true) !== 0x06054b50) end -= 1; // the end of the central directory
  let place = view.getUint32(end + 16, true);
  const arrays = {};
  for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
    const [nameLength, extraLength, noteLength] = [28, 30, 32].map((at) => view.getUint16(place + at, true));
    const name = buffer.subarray(place + 46, place + 46 + nameLength).toString().replace(/\.npy$/, "");
    const size = view.getUint32(place + 24, true);
    const local = view.getUint32(place + 42, true);
    const begin = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    arrays[name] = readNpy(buffer.subarray(begin, begin + size));
    place += 46 + nameLength + extraLength + noteLength;
  }
  return arrays;
}

function readNpy(bytes) {
  const length = bytes.readUInt16LE(8);
  const header = bytes.subarray(10, 10 + length).toString();
  const kind = READERS[header.match(/'descr': '([^']+)'/)[1]];
  const shape = header.match(/'shape': \(([^)]*)\)/)[1].split(",").filter((part) => part.trim()).map(Number);
  const data = new kind(new Uint8Array(bytes.subarray(10 + length)).buffer); // a copy, for its alignment
  const size = shape.slice(1).reduce((a, b) => a * b, 1);
  return { shape, row: (index) => Array.from(data.subarray(index * size, (index + 1) * size), Number) };
}

export async function replay(policy, golden) {
  const conditions = policy.rules.conditions;
  let session = null;
  let largest = 0;
  let uniforms = [];
  const count = golden.actions.shape[0];
  for (let step = 0; step < count; step += 1) {
    if (golden.is_first.row(step)[0]) {
      const targets = {};
      conditions.forEach(({ name }, index) => (targets[name] = golden.targets.row(step)[index]));
      if (policy.rules.target === "generated") delete targets.return_to_go;
      session = policy.session({ targets, random: () => uniforms.shift() });
    }
    if (golden.uniforms) uniforms = golden.uniforms.row(step);
    const allowed = golden.allowed ? golden.allowed.row(step).map(Boolean) : null;
    const action = [await session.act(golden.observations.row(step), allowed, policy.rules.golden.is_flat)].flat();
    golden.actions.row(step).forEach((number, index) => (largest = Math.max(largest, Math.abs(number - action[index]))));
    const outcomes = {};
    for (const { outcome } of conditions) if (outcome !== "reward") outcomes[outcome] = golden[outcome].row(step)[0];
    session.observe(golden.rewards.row(step)[0], golden.executed.row(step), outcomes);
  }
  return { steps: count, largest_difference: largest };
}

const folder = process.argv[2] ?? path.dirname(fileURLToPath(import.meta.url));
const file = process.argv[3] ?? "policy.onnx";
const library = await import("onnxruntime-node").catch(() => import("onnxruntime-web"));
const ort = library.InferenceSession ? library : library.default;
const rules = JSON.parse(await readFile(path.join(folder, "policy.json"), "utf8"));
const policy = await Policy.load(ort, rules, await readFile(path.join(folder, file)), file);
const result = await replay(policy, readNpz(await readFile(path.join(folder, "golden.npz"))));
console.log(JSON.stringify(result));
process.exitCode = result.largest_difference > rules.golden.tolerance ? 1 : 0;
