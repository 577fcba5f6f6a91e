"""Act with an exported policy. NumPy and onnxruntime are all it needs; copy this file into your program.

    policy = Policy("DIR")                       # the folder that rlt export wrote
    session = policy.session(target_return=10.0) # one live episode
    action = session.act(observation)
    session.observe(reward)

`python golden.py DIR` compares it with the recorded steps in golden.npz.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime


class Policy:
    """The files of an export. ``file`` is policy.onnx, policy_step.onnx or policy_int8.onnx."""

    def __init__(self, folder, file="policy.onnx", threads=1):
        self.rules = json.loads((Path(folder) / "policy.json").read_text(encoding="utf-8"))
        self.file = self.rules["files"][file]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path = str(Path(folder) / file)
        self.model = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def session(self, target_return=None, seed=0, targets=None):
        """Start an episode; ``targets`` are those of conditions beside the return, such as {"cost_to_go": 25}."""
        return Session(self, target_return, seed, targets or {})


class Session:
    """One live episode: `act`, then `observe`, and so on."""

    def __init__(self, policy, target_return, seed, targets):
        rules = self.rules = policy.rules
        self.policy = policy
        names = [condition["name"] for condition in rules["conditions"]]
        given = dict(targets) if target_return is None else {**targets, "return_to_go": target_return}
        unknown = set(given) - (set(names) if rules["target"] == "given" else set(names) - {"return_to_go"})
        default = 0.0 if rules["target"] == "generated" else rules["default_target"]  # 0 is replaced before it is read
        given.setdefault("return_to_go", default)
        if unknown or any(given.get(name) is None for name in names):
            raise ValueError(f"this policy takes targets of {names}, not {given}")
        # In float64, because thousands of rewards are subtracted one after the other.
        self.conditions = {name: float(given[name]) for name in names}
        self.step, self.waits, self.frames = 0, False, []
        self.random = np.random.default_rng([seed, 0xAC])
        self.window = {"observations": [], "actions": [], "conditions": [], "timesteps": []}
        self.ports = {port["name"]: port for port in policy.file["inputs"]}
        cache = self.ports.get("cache")
        self.cache = None if cache is None else np.zeros((1, *cache["shape"][1:]), np.float32)
        # With a cache only the newest timestep is read again, and the action before it.
        self.length = rules["window_length"] if cache is None else 2

    def act(self, observation, allowed=None, is_flat=False):
        """Return the action for an observation.

        ``allowed`` is True at legal discrete actions; with ``is_flat`` the observation is a vector or image as the policy
        reads it.
        """
        if self.waits:
            raise ValueError("call observe(reward) after every action")
        action = self.rules["action"]
        step = {
            "observations": self._read(observation, is_flat),
            "actions": np.full(action["shape"], action["first"], action["input_dtype"]),  # not chosen yet
            "conditions": np.array(list(self.conditions.values()), np.float32),
            "timesteps": np.int64(self.step),
        }
        for name, values in self.window.items():
            values.append(step[name])
            del values[: -self.length]
        results = self._run(allowed)
        if not np.isfinite(results["parameters"]).all():
            raise ValueError("the model's output is not finite: check the observation and the target")
        if "return_to_go" in results:
            self.conditions["return_to_go"] = float(results["return_to_go"][0])
            self.window["conditions"][-1] = np.array(list(self.conditions.values()), np.float32)
        self.cache = results.get("next_cache")
        chosen = results["action"][0]
        self._remember(chosen)
        self.waits = True
        return chosen

    def observe(self, reward=None, action=None, **outcomes):
        """Report the reward of the action, and what was executed if it was another action."""
        if not self.waits:
            raise ValueError("call act(observation) first")
        if action is not None:
            self._remember(action)
        for condition in self.rules["conditions"]:
            value = reward if condition["outcome"] == "reward" else outcomes[condition["outcome"]]
            if value is None or condition["update"] == "keep":
                continue
            if not np.isfinite(value):
                raise ValueError(f"the {condition['outcome']} is not finite")
            clip = condition["clip"]
            self.conditions[condition["name"]] -= float(value if clip is None else np.clip(value, -clip, clip))
        self.step += 1
        self.waits = False

    def _remember(self, action):
        rules = self.rules["action"]
        self.window["actions"][-1] = np.asarray(action).astype(rules["input_dtype"]).reshape(rules["shape"])

    def _run(self, allowed):
        if self.cache is None:
            feed = {name: np.stack(values)[None] for name, values in self.window.items()}
            feed["lengths"] = np.array([len(self.window["timesteps"])])
        else:
            feed = {"observation": self.window["observations"][-1][None], "cache": self.cache}
            feed["action_before"] = self.window["actions"][-2:][0][None]
            feed["conditions"] = self.window["conditions"][-1][None]
            feed["timestep"] = np.array([self.step])
        if "allowed" in self.ports:
            everything = [True] * self.ports["allowed"]["shape"][1]
            feed["allowed"] = np.array([everything if allowed is None else allowed], bool)
        elif allowed is not None:
            raise ValueError("the actions of this policy have no mask")
        if "uniforms" in self.ports:
            feed["uniforms"] = self.random.random((1, self.ports["uniforms"]["shape"][1]))
        names = [port["name"] for port in self.policy.file["outputs"]]
        return dict(zip(names, self.policy.model.run(names, {name: feed[name] for name in self.ports}), strict=True))

    def _read(self, observation, is_flat):
        rules = self.rules["observation"]
        flat = observation if is_flat else flatten(rules["space"], observation, rules["image_axes"])
        array = np.asarray(flat, rules["dtype"]).reshape(rules["flat_shape"])
        if not np.isfinite(array).all():
            raise ValueError("the observation is not finite")
        if rules["frame_stack"] == 1:
            return array
        self.frames = [*(self.frames or [array] * rules["frame_stack"])[1:], array]
        return np.concatenate(self.frames)


def flatten(space, value, axes=None):
    """Return an observation as the policy reads it: a vector with discrete values as one-hot, or an image."""
    if space["kind"] in ("dict", "tuple"):
        values = [value[name if space["kind"] == "dict" else int(name)] for name, _ in space["parts"]]
        return np.concatenate([flatten(part, v, axes) for (_, part), v in zip(space["parts"], values, strict=True)])
    if space["kind"] in ("discrete", "multi_discrete"):
        sizes = [space["n"]] if space["kind"] == "discrete" else space["nvec"]
        first = [space["start"]] if space["kind"] == "discrete" else space["starts"]
        indices = np.asarray(value).reshape(-1) - first
        if len(indices) != len(sizes) or (indices < 0).any() or (indices >= sizes).any():
            raise ValueError(f"{value} is not a value of the space")
        return np.concatenate([np.eye(n, dtype=np.float32)[int(i)] for n, i in zip(sizes, indices, strict=True)])
    array = np.asarray(value)
    if list(array.shape) != space["shape"]:
        raise ValueError(f"the observation has shape {array.shape}, not {space['shape']}")
    return array.transpose(axes) if axes else array.astype(np.float32).reshape(-1)
