"""Plant every kind of defect that data can have into clean episodes, and write them in the formats that can hold it.

A plant changes episodes (lists of dicts of arrays) in place, and returns where the defect is.
"""

import json
import pickle
import uuid

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from gymnasium import spaces
from pyarrow.csv import write_csv

from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.trajectory import Trajectory
from tests.trajectories.foreign_files import buffers_of, write_minari
from tests.trajectories.generated_sets import linear_system
from tests.trajectories.table_files import write_jsonl, write_npz, write_parquet

SIZE, ACTIONS = 5, 2


def clean_episodes(seed, count=30, *, discrete=False, length=30):
    """Episodes of a noisy linear system, with further columns: a time, a counter, next observations, perhaps a mask."""
    random = np.random.default_rng(seed + 1_000)
    episodes = linear_system(seed, "noisy", count=count, length=length)
    clock = 1_700_000_000.0
    for episode in episodes:
        steps = len(episode["rewards"])
        observations = episode["observations"]
        if discrete:
            episode["actions"] = random.permutation(np.arange(steps) % 4)
            episode["allowed"] = np.ones((steps, 4), bool)
            episode["allowed"][np.arange(steps), (episode["actions"] + 1) % 4] = random.random(steps) < 0.5
        episode["next_observations"] = np.concatenate([observations[1:], observations[-1:] + 1])
        episode["final_observation"] = observations[-1] + 1
        episode["recorded_at"] = clock + np.cumsum(60 + random.uniform(0, 5, steps))
        episode["frame"] = np.arange(float(steps))
        clock += 1e6
    return episodes


def spec_of(discrete=False):
    action = Space.discrete(4) if discrete else Space.box((ACTIONS,), -1, 1)
    return DataSpec(Space.box((SIZE,)), action, "planted")


def place(random, episodes, *, inside=1):
    """Return an episode and a step that is not one of the first or last ones."""
    e = int(random.integers(len(episodes)))
    return e, int(random.integers(inside, len(episodes[e]["rewards"]) - inside))


def value(name, bad):
    """Plant a value into one number of an array."""

    def plant(episodes, random):
        e, t = place(random, episodes)
        array = episodes[e][name] = np.array(episodes[e][name], np.float64 if abs(bad) > 1e30 else None)
        if array.ndim == 1:
            array[t] = bad
            return {"episode": e, "step": t}
        feature = int(random.integers(array.shape[1]))
        array[t, feature] = bad
        return {"episode": e, "step": t, "feature": feature}

    return plant


def replaced(name, make):
    """Replace a whole array of one episode."""

    def plant(episodes, random):
        e = int(random.integers(len(episodes)))
        episodes[e][name] = make(episodes[e][name])
        return {"episode": e}

    return plant


def column(make, *, name="observations"):
    """Change one feature of all episodes."""

    def plant(episodes, random):
        feature = int(random.integers(1, episodes[0][name].shape[1]))
        for episode in episodes:
            episode[name] = np.array(episode[name], np.float64)
            episode[name][:, feature] = make(episode, feature, random)
        return {"feature": feature}

    return plant


def one_episode(make):
    """Change one episode; ``make`` may return more of the place."""

    def plant(episodes, random):
        e = int(random.integers(3, len(episodes)))
        episodes[e] = dict(episodes[e])
        return {"episode": e, **(make(episodes[e], random) or {})}

    return plant


def frozen(episode, random):
    feature = int(random.integers(SIZE))
    episode["observations"] = episode["observations"].copy()
    episode["observations"][:, feature] = 0.3721
    return {"feature": feature}


def other_unit(episode, random):
    feature = int(random.integers(SIZE))
    episode["observations"] = episode["observations"].copy()
    episode["observations"][:, feature] *= 1000
    return {"feature": feature}


def padded(episodes, random):
    e, _ = place(random, episodes)
    steps = len(episodes[e]["rewards"])
    for episode in episodes:
        for name in ("next_observations", "recorded_at", "frame"):
            episode.pop(name)
    for name in ("observations", "actions", "rewards"):
        episodes[e][name] = np.concatenate([episodes[e][name], np.zeros_like(episodes[e][name][:5])])
    return {"episode": e, "step": steps}


def repeated_row(episode, random):
    step = int(random.integers(2, len(episode["rewards"]) - 2))
    for name in ("observations", "actions", "rewards"):
        episode[name] = episode[name].copy()
        episode[name][step] = episode[name][step - 1]
    return {"step": step}


def zero_row(episode, random):
    step = int(random.integers(2, len(episode["rewards"]) - 2))
    episode["observations"] = episode["observations"].copy()
    episode["observations"][step] = 0
    return {"step": step}


def moved(name, by, *, rest=False):
    """Move one number of a column, or all from there on."""

    def make(episode, random):
        step = int(random.integers(3, len(episode[name]) - 3))
        episode[name] = np.array(episode[name], np.float64)
        if rest:
            episode[name][step:] += by
        else:
            episode[name][step] = episode[name][step - 1] + by
        return {"step": step}

    return make


def jump_in_next(episodes, random):
    e, step = place(random, episodes, inside=2)
    for episode in episodes:
        episode.pop("recorded_at")
        episode.pop("frame")
    for name in ("observations", "actions", "rewards", "next_observations"):
        episodes[e][name] = np.delete(episodes[e][name], step, axis=0)
    return {"episode": e, "step": step - 1}


def copied(episodes, random):
    e = int(random.integers(len(episodes) - 1))
    episodes.append({name: np.copy(values) for name, values in episodes[e].items()})
    for name in ("recorded_at", "frame", "next_observations"):
        for episode in episodes:
            episode.pop(name, None)
    return {"episode": len(episodes) - 1}


def flag_stays(episodes, random):
    for _ in range(len(episodes)):
        episode = episodes.pop(0)
        row = {k: episode[k][-1:] for k in ("observations", "actions", "rewards")}
        kept = {k: episode[k] for k in ("observations", "actions", "rewards", "terminated", "truncated")}
        episodes += [kept, *({**row, "rewards": row["rewards"] + i, **_ended(kept)} for i in range(3))]
    return {}


def one_more(episodes, random):
    flag_stays(episodes, random)
    del episodes[2::4]
    del episodes[2::3]
    return {}


def _ended(episode):
    return {"terminated": episode["terminated"], "truncated": episode["truncated"]}


def everywhere(change):
    """Change all episodes."""

    def plant(episodes, random):
        for index, episode in enumerate(episodes):
            change(episode, index, random)
        return {}

    return plant


def long_times(episode, feature, random):
    return 1.6e9 + np.arange(len(episode["rewards"]))


def saturate(episodes, random):
    """Clip a feature to a range that three in five values exceed."""
    feature = int(random.integers(1, SIZE))
    sizes = [np.abs(episode["observations"][:, feature]) + 0.1 for episode in episodes]
    most = float(np.float32(np.quantile(np.concatenate(sizes), 0.4)))
    for episode, values in zip(episodes, sizes, strict=True):
        episode["observations"] = np.array(episode["observations"], np.float64)
        episode["observations"][:, feature] = np.minimum(values, most)
    return {"feature": feature}


def with_codes(episode, feature, random):
    values = episode["observations"][:, feature].copy()
    values[int(random.integers(len(values)))] = -999.0
    return values


def illegal(episodes, random):
    e, t = place(random, episodes)
    episodes[e]["allowed"] = episodes[e]["allowed"].copy()
    episodes[e]["allowed"][t, episodes[e]["actions"][t]] = False
    return {"episode": e, "step": t}


def flag_inside(name):
    """Add a further column that is a flag of ends or beginnings, set inside of one episode."""

    def plant(episodes, random):
        e, _ = place(random, episodes)
        for index, episode in enumerate(episodes):
            steps = len(episode["rewards"])
            flags = np.zeros(steps, np.int64)
            flags[0 if name == "is_first" else -1] = 1
            if index == e:
                flags[steps // 2] = 1
            episode[name] = flags
        return {"episode": e}

    return plant


def _set(name, make):
    def change(episode, index, random):
        episode[name] = make(episode)

    return change


ALL = ("arrays", "kzl-pickle", "d4rl", "d3rlpy", "minari")
# In a table, a row with a value that is not finite is dropped, which is another finding.
WITH_TABLES = (*ALL, "parquet", "npz", "jsonl")
ARRAYS = ("arrays",)
LISTS = ("arrays", "kzl-pickle")
NAN, INF = float("nan"), float("inf")

# name: (kind of the finding, field, how to plant it, formats that can hold it)
CONTINUOUS = {
    "NaN observation": ("not finite", "observations", value("observations", NAN), ALL),
    "infinite observation": ("not finite", "observations", value("observations", INF), ALL),
    "minus infinite observation": ("not finite", "observations", value("observations", -INF), ALL),
    "NaN action": ("not finite", "actions", value("actions", NAN), ALL),
    "infinite action": ("not finite", "actions", value("actions", INF), ALL),
    "NaN reward": ("not finite", "rewards", value("rewards", NAN), ALL),
    "infinite reward": ("not finite", "rewards", value("rewards", -INF), ALL),
    "NaN in a further column": ("not finite", "recorded_at", value("recorded_at", NAN), LISTS),
    "NaN final observation": (
        "not finite",
        "final_observation",
        one_episode(lambda e, r: e.update(final_observation=np.full(SIZE, NAN))),
        ARRAYS,
    ),
    "action above its bounds": ("action outside the space", "actions", value("actions", 3.0), ARRAYS),
    "action below its bounds": ("action outside the space", "actions", value("actions", -1.01), ARRAYS),
    "rewards too large together": (
        "overflow",
        "rewards",
        one_episode(lambda e, r: e.update(rewards=np.full(len(e["rewards"]), 1e38))),
        LISTS,
    ),
    "empty episode": (
        "empty episode",
        "rewards",
        one_episode(lambda e, r: e.update({k: v[:0] for k, v in e.items() if np.ndim(v) and k != "final_observation"})),
        ARRAYS,
    ),
    "observations too short": ("length mismatch", "observations", replaced("observations", lambda v: v[:-3]), ARRAYS),
    "actions too long": ("length mismatch", "actions", replaced("actions", lambda v: np.concatenate([v, v])), LISTS),
    "further column too short": ("length mismatch", "frame", replaced("frame", lambda v: v[:-1]), LISTS),
    "observations of text": ("not numbers", "observations", replaced("observations", lambda v: v.astype(str)), ARRAYS),
    "actions of text": ("not numbers", "actions", replaced("actions", lambda v: v.astype(str)), ARRAYS),
    "rewards of text": ("not numbers", "rewards", replaced("rewards", lambda v: v.astype(str)), ARRAYS),
    "further column of text": ("not numbers", "frame", replaced("frame", lambda v: v.astype(str)), ARRAYS),
    "observations too wide": (
        "wrong shape or value",
        "observations",
        replaced("observations", lambda v: np.concatenate([v, v[:, :1]], axis=1)),
        ARRAYS,
    ),
    "actions too narrow": ("wrong shape or value", "actions", replaced("actions", lambda v: v[:, :1]), ARRAYS),
    "several rewards per step": (
        "wrong shape or value",
        "rewards",
        replaced("rewards", lambda v: np.stack([v, v], axis=1)),
        ARRAYS,
    ),
    **{
        f"flag {name} inside": ("end inside of an episode", name, flag_inside(name), ARRAYS)
        for name in ("is_first", "dones", "timeouts", "terminals")
    },
    "episode twice": ("duplicate episode", "episode", copied, WITH_TABLES),
    "episode without an end": (
        "unfinished episode",
        "episode",
        one_episode(lambda e, r: e.update(terminated=False, truncated=False)),
        LISTS,
    ),
    "terminated and truncated": (
        "both ends",
        "episode",
        one_episode(lambda e, r: e.update(terminated=True, truncated=True)),
        (*LISTS, "d4rl"),
    ),
    "padding": ("padding", "episode", padded, WITH_TABLES),
    "repeated step": ("repeated step", "step", one_episode(repeated_row), WITH_TABLES),
    "step of zeros": ("all zeros", "observations", one_episode(zero_row), WITH_TABLES),
    "code for a missing value": ("missing code", "observations", column(with_codes), WITH_TABLES),
    "outlier among observations": ("outlier", "observations", value("observations", 1e12), WITH_TABLES),
    "outlier among rewards": ("outlier", "rewards", value("rewards", -1e9), WITH_TABLES),
    "frozen signal": ("frozen signal", "observations", one_episode(frozen), WITH_TABLES),
    "saturated signal": ("saturated signal", "observations", saturate, WITH_TABLES),
    "other unit": ("unit change", "observations", one_episode(other_unit), WITH_TABLES),
    "constant feature": ("constant feature", "observations", column(lambda e, f, r: 2.0), WITH_TABLES),
    "equal features": ("equal features", "observations", column(lambda e, f, r: e["observations"][:, 0]), WITH_TABLES),
    "times that float32 rounds": ("precision", "observations", column(long_times), LISTS),
    "constant action": ("constant action", "actions", column(lambda e, f, r: 0.25, name="actions"), WITH_TABLES),
    "actions in another unit": (
        "tiny actions",
        "actions",
        column(lambda e, f, r: 1e-3 * e["actions"][:, f], name="actions"),
        WITH_TABLES,
    ),
    "no rewards": ("no rewards", "rewards", everywhere(_set("rewards", lambda e: 0 * e["rewards"])), WITH_TABLES),
    "equal returns": (
        "equal returns",
        "rewards",
        everywhere(_set("rewards", lambda e: np.eye(len(e["rewards"]))[-1] * 3)),
        WITH_TABLES,
    ),
    "time goes backwards": ("time goes backwards", "recorded_at", one_episode(moved("recorded_at", -50.0)), LISTS),
    "time stands still": ("repeated time", "recorded_at", one_episode(moved("recorded_at", 0.0)), LISTS),
    "gap in time": ("gap in time", "recorded_at", one_episode(moved("recorded_at", 1e5, rest=True)), LISTS),
    "missing step": ("missing step", "frame", one_episode(moved("frame", 3, rest=True)), LISTS),
    "steps that do not follow": ("steps do not follow", "next_observations", jump_in_next, ARRAYS),
    "final observation twice": (
        "repeated final observation",
        "final_observation",
        one_episode(lambda e, r: e.update(final_observation=e["observations"][-1])),
        ARRAYS,
    ),
    "flag that stays set": ("consecutive ends", None, flag_stays, ("arrays", "kzl-pickle", "d4rl")),
    "one step after every end": ("consecutive ends", None, one_more, ("arrays", "kzl-pickle", "d4rl")),
    "time limit as an end": (
        "time limit as an end",
        "terminated",
        everywhere(
            lambda e, i, r: e.update(
                {k: v[: 15 if i % 8 else 11] for k, v in e.items() if np.ndim(v) and k != "final_observation"},
                terminated=True,
                truncated=False,
            )
        ),
        WITH_TABLES,
    ),
    "guessed action space": ("guessed space", "actions", lambda e, r: {}, ("kzl-pickle", "d3rlpy")),
}
DISCRETE = {
    "action too large": ("action off the space", "actions", value("actions", 4), ARRAYS),
    "negative action": ("action off the space", "actions", value("actions", -1), ARRAYS),
    "illegal action": ("illegal action", "actions", illegal, ARRAYS),
    "fraction of an action": (
        "action off the space",
        "actions",
        lambda episodes, random: (
            episodes[2].update(actions=episodes[2]["actions"] + 0.5 * (np.arange(len(episodes[2]["actions"])) == 3))
            or {"episode": 2, "step": 3}
        ),
        ARRAYS,
    ),
    "action never taken": (
        "unused action",
        "actions",
        lambda episodes, random: (
            [e.update(actions=e["actions"] % 3, allowed=np.ones((len(e["actions"]), 4), bool)) for e in episodes]
            and {"action": 3}
        ),
        ARRAYS,
    ),
}


def write_minari_set(folder, data):
    """Write a dataset below the Minari folder of the test."""
    observation = spaces.Box(-np.inf, np.inf, (SIZE,), np.float32)
    name = f"planted/set{uuid.uuid4().hex}-v0"
    return write_minari(name, buffers_of(data), observation, spaces.Box(-1, 1, (ACTIONS,), np.float32))


FOREIGN = {
    "minari": write_minari_set,
    "parquet": lambda folder, data: write_parquet(folder / "parquet", data),
    "npz": lambda folder, data: write_npz(folder / "planted.npz", data),
    "jsonl": lambda folder, data: write_jsonl(folder / "planted.jsonl", data),
}
# Flags that a store of the first version took for further columns.
FLAGS = ("is_first", "dones", "terminals", "timeouts")


def write(episodes, form, folder, *, discrete=False):
    """Write episodes in a format; return its URI, or a dataset for arrays."""
    if form == "arrays":
        trajectories = [
            Trajectory(
                e["observations"],
                e["actions"],
                np.asarray(e["rewards"]),
                terminated=bool(e["terminated"]),
                truncated=bool(e["truncated"]),
                final_observation=e.get("final_observation"),
                extras={k: e[k] for k in sorted({*FLAGS, *EXTRAS} & set(e))},
            )
            for e in episodes
        ]
        return TrajectoryDataset.in_memory(spec_of(discrete), trajectories)
    if form in FOREIGN:
        return FOREIGN[form](folder, write(episodes, "arrays", folder, discrete=discrete))
    flat = [_with_flags(e) for e in episodes]
    if form == "kzl-pickle":
        (folder / "data.pkl").write_bytes(pickle.dumps(flat))
        return f"kzl-pickle:{folder / 'data.pkl'}"
    if form == "d4rl":
        with h5py.File(folder / "data.hdf5", "w") as file:
            for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
                file[name] = np.concatenate([e[name] for e in flat])
        return f"d4rl:{folder / 'data.hdf5'}"
    with h5py.File(folder / "data.h5", "w") as file:
        file["columns"] = ["observations", "actions", "rewards", "terminated"]
        file["num_episodes"] = len(flat)
        file["version"] = "2.1"
        for i, e in enumerate(flat):
            file[f"observations_{i}"] = e["observations"]
            file[f"actions_{i}"] = e["actions"]
            file[f"rewards_{i}"] = np.asarray(e["rewards"])[:, None]
            file[f"terminated_{i}"] = bool(episodes[i]["terminated"])
    return f"d3rlpy:{folder / 'data.h5'}"


EXTRAS = ("allowed", "next_observations", "recorded_at", "frame")


def _with_flags(e):
    last = np.arange(len(e["rewards"])) == len(e["rewards"]) - 1
    kept = {k: e[k] for k in ("observations", "actions", "rewards", "recorded_at", "frame") if k in e}
    return {**kept, "terminals": last & bool(e["terminated"]), "timeouts": last & bool(e["truncated"])}


# Tables


def table_of(seed, count=400):
    """A clean log: patients, times, two signs, a dose, whether it was allowed, and a reward."""
    random = np.random.default_rng(seed)
    dose = random.integers(0, 3, count)
    allowed = random.random((count, 3)) < 0.8
    allowed[np.arange(count), dose] = True
    return {
        "patient": random.integers(0, 12, count).astype(object),
        "time": (1_700_000_000 + random.permutation(count) * 60).astype(object),
        "pulse": random.normal(70, 5, count).astype(object),
        "sign": random.normal(size=count).astype(object),
        "dose": dose.astype(object),
        **{f"may_{i}": allowed[:, i].astype(object) for i in range(3)},
        "reward": random.normal(size=count).astype(object),
    }


TABLE_MAPPING = {
    "episode": "patient",
    "order": "time",
    "observe": ["pulse", "sign"],
    "action": "dose",
    "allowed": "may_*",
    "reward": "reward",
}


def cell(name, bad):
    def plant(table, random):
        row = int(random.integers(len(table[name])))
        table[name][row] = bad
        return row

    return plant


def forbidden(table, random):
    row = int(random.integers(len(table["dose"])))
    table[f"may_{table['dose'][row]}"][row] = False
    return row


def twice(table, random):
    row = int(random.integers(len(table["dose"])))
    for name in table:
        table[name] = np.append(table[name], table[name][row])
    return len(table["dose"]) - 1


TABLES = {
    "missing episode": ("missing value in patient", cell("patient", None)),
    "missing time": ("missing value in time", cell("time", None)),
    "missing observation": ("missing value in pulse", cell("pulse", None)),
    "NaN observation": ("missing value in sign", cell("sign", NAN)),
    "infinite observation": ("infinite value in sign", cell("sign", INF)),
    "missing action": ("missing value in dose", cell("dose", None)),
    "missing reward": ("missing value in reward", cell("reward", None)),
    "infinite reward": ("infinite value in reward", cell("reward", -INF)),
    "forbidden action": ("action that was not allowed", forbidden),
    "row twice": ("same as another row", twice),
}


def write_table(table, form, folder):
    """Write a table; return its URI."""
    (folder / "mapping.json").write_text(json.dumps(TABLE_MAPPING))
    arrow = pa.table({name: pa.array(list(values), from_pandas=False) for name, values in table.items()})
    path = folder / f"log.{form}"
    if form == "parquet":
        pq.write_table(arrow, path)
    else:
        write_csv(arrow, path)
    return f"{form}:{path}?mapping={folder / 'mapping.json'}"
