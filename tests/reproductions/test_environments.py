"""Claims about the small environments of the experiments; Key-to-Door has tests of its own."""

import numpy as np
import pytest
from scipy import stats

from rl_transformer.environments import GAMBLING, KEY_TO_DOOR, STITCHING, graph_walk_id, t_maze_id
from rl_transformer.environments.gambling import OUTCOMES
from rl_transformer.environments.graph_walk import GOAL, NUM_NODES, distances, random_graph
from rl_transformer.environments.making import make_environment
from rl_transformer.environments.stitching import GO, LEAVE, TO_G, TO_X
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.trajectories import TrajectoryDataset


def test_random_actions_and_the_environments_draws_are_independent():
    environment = make_environment(KEY_TO_DOOR).unwrapped
    data = TrajectoryDataset.in_memory(*record_episodes(environment, KEY_TO_DOOR, 4_000, seed=0))
    first = data.offsets[:-1]
    start_column = np.round(data.observations[first, 4] * 10).astype(int)
    table = np.zeros((5, 4))
    np.add.at(table, (start_column - 1, data.actions[first]), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_graphs_reach_the_goal_from_everywhere_by_the_steps_that_a_search_finds():
    for seed in range(5):
        edges = random_graph(seed)
        steps_to_goal = distances(edges)
        assert np.isfinite(steps_to_goal).all()
        assert not edges.diagonal().any()
        for node in range(NUM_NODES):
            frontier = {node}
            steps = 0
            while GOAL not in frontier:
                frontier = {int(n) for at in frontier for n in np.flatnonzero(edges[at])}
                steps += 1
            assert steps_to_goal[node] == steps


def test_a_graph_walk_costs_one_a_step_stays_without_an_edge_and_starts_where_the_seed_says():
    env = make_environment(graph_walk_id(3)).unwrapped
    starts = [int(env.reset(seed=seed)[0].argmax()) for seed in range(NUM_NODES - 1)]
    assert sorted(starts) == list(range(1, NUM_NODES))
    missing = int(np.flatnonzero(~env.edges[starts[-1]])[0])
    seen, reward, terminated, _, _ = env.step(missing)
    assert (int(seen.argmax()), reward, terminated) == (starts[-1], -1.0, False)
    steps_to_goal = distances(env.edges)
    node = env.reset(seed=4)[0].argmax()
    shortest = steps_to_goal[node]
    total = 0.0
    while not terminated:
        node = min(np.flatnonzero(env.edges[node]), key=lambda n: steps_to_goal[n])
        _, reward, terminated, _, _ = env.step(node)
        total += reward
    assert total == -shortest


def test_the_t_maze_shows_its_cue_once_and_alternates_it():
    env = make_environment(t_maze_id(4)).unwrapped
    for seed in range(6):
        seen, _ = env.reset(seed=seed)
        assert seen[0] == (1.0 if seed % 2 == 0 else -1.0)
        rewards = []
        shown = []
        over = False
        while not over:
            seen, reward, over, _, _ = env.step(1)
            rewards.append(reward)
            shown.append(seen[0])
        assert len(rewards) == 5
        assert not any(shown)
        assert sum(rewards) == rewards[-1] == float(seed % 2 == 0)


def test_the_gamble_pays_what_it_says():
    env = make_environment(GAMBLING).unwrapped
    for action, outcomes in enumerate(OUTCOMES):
        earned = []
        for seed in range(400):
            env.reset(seed=seed)
            earned.append(env.step(action)[1])
        assert set(earned) == set(outcomes)
        assert np.mean(earned) == pytest.approx(np.mean(outcomes), abs=2)


@pytest.mark.parametrize(
    ("actions", "earned"), [((GO, TO_G), 1.0), ((GO, TO_X), 0.0), ((LEAVE,), 0.5), ((TO_G, TO_G), 1.0)]
)
def test_the_stitching_task_pays_what_it_says(actions, earned):
    env = make_environment(STITCHING).unwrapped
    env.reset(seed=0)
    total = over = 0
    for action in actions:
        assert not over
        _, reward, over, _, _ = env.step(action)
        total += reward
    assert over
    assert total == earned
