"""Generate clean data of many kinds, in which tests plant defects and leaks."""

import numpy as np

from rl_transformer import TrajectoryDataset

BOX = {"low": -1.0, "high": 1.0}


def cart_pole(seed, policy="linear", count=40, length=60, continuous=True):
    """Episodes of a linearized cart-pole with noise; policies: random, linear, angle, velocity, mixed, noisy, one-number."""
    random = np.random.default_rng(seed)
    gains = np.array([0.3, 0.6, 3.0, 1.2]) * random.uniform(0.6, 1.4, 4)
    episodes = []
    for _ in range(count):
        state = random.uniform(-0.3, 0.3, 4)
        rows, actions, rewards = [], [], []
        for _ in range(length):
            rows.append(state.copy())
            wish = {
                "random": random.uniform(-1, 1),
                "linear": gains @ state,
                "angle": 4 * state[2] + 0.5 * state[3],
                "velocity": state[1] + state[3],
                "mixed": gains @ state if random.random() < 0.5 else random.uniform(-1, 1),
                "noisy": gains @ state + 0.3 * random.normal(),
                "one-number": 4 * state[2],
            }[policy]
            action = float(np.clip(wish, -1, 1))
            if not continuous:
                action = float(np.sign(wish) or 1)
            x, v, angle, spin = state
            force = action + 0.05 * random.normal()
            state = np.array(
                [x + 0.05 * v, v + 0.05 * (force - angle), angle + 0.05 * spin, spin + 0.05 * (6 * angle - 4 * force)]
            )
            actions.append(action)
            rewards.append(1.0 - angle**2 - 0.1 * x**2)
            if abs(state[2]) > 0.7:
                break
        episodes.append(as_episode(rows, actions, rewards, terminated=len(actions) < length, discrete=not continuous))
    return episodes


def as_episode(rows, actions, rewards, *, terminated, discrete=False):
    values = np.array(actions)
    return {
        "observations": np.array(rows, np.float32),
        "actions": (values > 0).astype(np.int64) if discrete else values.astype(np.float32).reshape(len(values), -1),
        "rewards": np.array(rewards, np.float64),
        "terminated": bool(terminated),
        "truncated": not terminated,
    }


def linear_system(seed, policy="noisy", count=40, length=40, size=5, num_actions=2):
    """Episodes of a random stable linear system with noise, one reward per step that depends on state and action."""
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.normal(size=(size, size)))[0] * random.uniform(0.7, 0.97)
    push = random.normal(size=(size, num_actions)) * 0.4
    gains = random.normal(size=(num_actions, size)) * 0.4
    cost = random.uniform(0.2, 1, size)
    episodes = []
    for _ in range(count):
        state = random.normal(size=size)
        rows, actions, rewards = [], [], []
        level = random.uniform(-0.8, 0.8, num_actions)
        steps = int(random.integers(length // 2, length + 1))
        for _ in range(steps):
            rows.append(state)
            exploring = random.normal(size=num_actions)
            wish = {
                "deterministic": gains @ state,
                "noisy": gains @ state + 0.4 * exploring,
                "random": exploring,
                "hovering": level + 0.05 * exploring,
                "sticky": actions[-1] if actions and random.random() < 0.8 else exploring,
            }[policy]
            action = np.clip(wish, -1, 1)
            actions.append(action)
            rewards.append(float(-cost @ np.square(state) - 0.1 * action @ action))
            state = turn @ state + push @ action + 0.2 * random.normal(size=size)
        episodes.append(as_episode(rows, actions, rewards, terminated=random.random() < 0.5))
    return episodes


def clinic(seed, count=50, length=30):
    """Episodes of patients: age and severity stay, three signs vary, a dose of four is chosen, most survive."""
    random = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        age, severity = random.uniform(20, 90), random.normal()
        signs = random.normal(size=3)
        rows, actions, rewards = [], [], []
        for step in range(int(random.integers(length // 3, length))):
            rows.append(np.array([age, severity, *signs, float(step)]))
            score = signs.sum() + severity + random.normal() * 0.5
            action = int(np.clip(np.floor(score + 2), 0, 3))
            actions.append(action)
            signs = 0.8 * signs - 0.1 * action + 0.4 * random.normal(size=3)
            rewards.append(0.0)
        died = random.random() < 1 / (1 + np.exp(1.5 - severity - 0.3 * signs.sum()))
        rewards[-1] = -1.0 if died else 1.0
        episode = as_episode(rows, actions, rewards, terminated=True)
        episodes.append({**episode, "actions": np.array(actions)})
    return episodes


def grid(seed, count=60, size=6, expert=0.7):
    """Episodes on a grid, one-hot positions, four moves, a reward of 1 at the goal."""
    random = np.random.default_rng(seed)
    moves = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    episodes = []
    for _ in range(count):
        at = random.integers(0, size, 2)
        goal = np.array([size - 1, size - 1])
        rows, actions, rewards = [], [], []
        for _ in range(30):
            one_hot = np.zeros(2 * size)
            one_hot[[at[0], size + at[1]]] = 1
            rows.append(one_hot)
            toward = 0 if at[0] < goal[0] else 2
            action = toward if random.random() < expert else int(random.integers(4))
            at = np.clip(at + moves[action], 0, size - 1)
            actions.append(action)
            rewards.append(float((at == goal).all()))
            if rewards[-1]:
                break
        episode = as_episode(rows, actions, rewards, terminated=rewards[-1] > 0)
        episodes.append({**episode, "actions": np.array(actions)})
    return episodes


CLEAN = {
    **{
        f"cart-{p}": (lambda s, p=p: cart_pole(s, p))
        for p in ("random", "linear", "angle", "velocity", "mixed", "noisy")
    },
    **{
        f"cart-{p}-discrete": (lambda s, p=p: cart_pole(s, p, continuous=False))
        for p in ("random", "linear", "angle", "velocity", "mixed", "noisy")
    },
    **{
        f"linear-{p}": (lambda s, p=p: linear_system(s, p))
        for p in ("deterministic", "noisy", "random", "hovering", "sticky")
    },
    "linear-wide": lambda s: linear_system(s, size=17, num_actions=6),
    "clinic": clinic,
    "grid": grid,
    "grid-expert": lambda s: grid(s, expert=1.0),
}
"""Makers of clean data by name; each takes a seed."""


def dataset(episodes, **options):
    return TrajectoryDataset.from_episodes(episodes, **options)


# Leaks


def with_feature(episodes, make):
    """Return the episodes with one more feature, which ``make(episode)`` computes from each."""
    changed = []
    for episode in episodes:
        feature = np.asarray(make(episode), np.float64).reshape(len(episode["rewards"]), -1)
        observations = np.column_stack([episode["observations"], feature]).astype(np.float32)
        changed.append({**episode, "observations": observations})
    return changed


def action_numbers(episode):
    return np.asarray(episode["actions"], np.float64).reshape(len(episode["rewards"]), -1)


def fading(values, keep=0.8):
    total, result = 0.0, []
    for value in values:
        total = keep * total + value
        result.append(total)
    return np.array(result)


def with_known_values(episodes, seed):
    """Return the episodes with features that look like leaks and were known: the step before, totals of it, a clock."""
    random = np.random.default_rng(seed)

    def known(e):
        before = [np.concatenate([[0], v[:-1]]) for v in (action_numbers(e)[:, 0], np.asarray(e["rewards"]))]
        steps = len(e["rewards"])
        return np.column_stack([*before, *map(np.cumsum, before), np.arange(steps), np.full(steps, random.normal())])

    return with_feature(episodes, known)


def leaks(seed):
    """Every kind of leak: name -> function of an episode that computes the feature."""
    random = np.random.default_rng(seed)
    codes = random.permutation(16)
    scale, shift = random.uniform(0.1, 50), random.uniform(-5, 5)

    def noisy(values, share):
        return values + share * np.std(values) * random.normal(size=values.shape)

    def code(e):
        values = first(e)
        return codes[values.astype(int)] if (values == np.round(values)).all() else np.round(values, 1)

    first = lambda e: action_numbers(e)[:, 0]  # noqa: E731
    return {
        "action": first,
        "scaled action": lambda e: scale * first(e) + shift,
        "noisy action": lambda e: noisy(first(e), 0.1),
        "square of the action": lambda e: np.square(first(e) + 2),
        "code of the action": code,
        "total of actions": lambda e: np.cumsum(first(e)),
        "scaled total of actions": lambda e: scale * np.cumsum(first(e)),
        "fading total of actions": lambda e: fading(first(e)),
        "reward": lambda e: e["rewards"],
        "scaled reward": lambda e: scale * e["rewards"] + shift,
        "noisy reward": lambda e: noisy(e["rewards"], 0.1),
        "total of rewards": lambda e: np.cumsum(e["rewards"]),
        "return": lambda e: np.full(len(e["rewards"]), e["rewards"].sum()),
        "noisy return": lambda e: e["rewards"].sum() * (1 + 0.002 * random.normal(size=len(e["rewards"]))),
        "return-to-go": lambda e: np.cumsum(e["rewards"][::-1])[::-1],
        "rewards that follow": lambda e: np.cumsum(e["rewards"][::-1])[::-1] - e["rewards"],
        "terminated": lambda e: np.full(len(e["rewards"]), float(e["terminated"])),
        "length": lambda e: np.full(len(e["rewards"]), len(e["rewards"])),
    }


def is_plantable(name, episodes):
    """Return False for a leak that says nothing: of an outcome that is the same in all but a few episodes."""
    outcome = {
        "return": lambda e: e["rewards"].sum(),
        "noisy return": lambda e: e["rewards"].sum(),
        "return-to-go": lambda e: e["rewards"].sum(),
        "rewards that follow": lambda e: e["rewards"].sum(),
        "terminated": lambda e: e["terminated"],
        "length": lambda e: len(e["rewards"]),
    }.get(name)
    if outcome is None:
        return True
    _, counts = np.unique([outcome(e) for e in episodes], return_counts=True)
    return counts.sum() - counts.max() >= 5


EXPLORING = [name for name in CLEAN if any(word in name for word in ("random", "noisy", "mixed", "wide"))]
"""Sets whose policies do not only follow the observation: otherwise late observations cannot be told from others."""


def recorded_late(episodes):
    """Return the episodes with every observation recorded after the action of its step."""
    return [
        {
            **e,
            "observations": e["observations"][1:],
            "actions": e["actions"][:-1],
            "rewards": e["rewards"][:-1],
        }
        for e in episodes
        if len(e["rewards"]) > 2
    ]


def overlapping_windows(episodes, length=20, stride=8):
    """Return windows of the episodes that overlap."""
    windows = []
    for e in episodes:
        for begin in range(0, len(e["rewards"]) - length + 1, stride):
            rows = slice(begin, begin + length)
            windows.append({**e, **{k: e[k][rows] for k in ("observations", "actions", "rewards")}})
    return windows
