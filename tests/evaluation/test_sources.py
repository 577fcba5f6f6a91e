"""Claims about where a policy can be evaluated: an id, one environment, a function that makes them; with arguments."""

import json
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, evaluate, train
from rl_transformer.environments.making import make_environment
from rl_transformer.evaluation import episodes as episodes_module
from tests.environments.foreign import LicensedEnv, NoRenderModeEnv, OpenOnceEnv, SizedEnv
from tests.toys import POINT, PointEnv, point_data, tiny_config, untrained_policy

NO_RENDER_MODE = "tests/NoRenderMode-v0"
SIZED = "tests/Sized-v0"
OPEN_ONCE = "tests/OpenOnce-v0"
LICENSED = "tests/Licensed-v0"
MADE = {NO_RENDER_MODE: NoRenderModeEnv, SIZED: SizedEnv, OPEN_ONCE: OpenOnceEnv, LICENSED: LicensedEnv}
for env_id, entry_point in MADE.items():
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=entry_point)


@pytest.fixture(scope="module")
def policy():
    return untrained_policy(point_data())


@pytest.fixture
def two_threads(monkeypatch):
    """Episodes are shared by as many processes as there are threads; on a busy machine, real ones would be slow."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def score(policy, *given, num_episodes=5, **options):
    report = evaluate(policy, *given, target_returns=[5.0], num_episodes=num_episodes, seed=3, **options)
    return report.targets[0].episode_returns


def refusal(policy, *given, **options):
    with pytest.raises(RLTransformerError) as caught:
        score(policy, *given, **options)
    return caught.value


def test_an_environment_without_render_mode_is_made_and_its_own_id_is_never_suggested(policy):
    """Reported as fancy_gym#78: "did you mean" the very same id, because render_mode was always passed."""
    assert score(policy, NO_RENDER_MODE) == score(policy, POINT)
    error = refusal(policy, NO_RENDER_MODE, record=1)
    assert "unexpected keyword argument 'render_mode'" in error.problem
    assert "did you mean" not in error.fix


def test_an_argument_that_is_missing_is_named_and_env_kwargs_gives_it(policy):
    """A sibling of fancy_gym#78: the constructor lacks an argument instead of having one too many."""
    error = refusal(policy, SIZED)
    assert "missing 1 required positional argument: 'size'" in error.problem
    assert "--env-kwargs" in error.fix
    assert "did you mean" not in error.fix
    assert score(policy, SIZED, env_kwargs={"size": 1}) == score(policy, POINT)
    report = evaluate(policy, SIZED, target_returns=[5.0], num_episodes=1, env_kwargs={"size": 2})
    assert report.to_dict()["env_kwargs"] == {"size": 2}


@pytest.mark.parametrize(
    "make", [PointEnv, lambda: PointEnv(), partial(PointEnv, None), lambda: make_environment(POINT)]
)
def test_a_function_that_makes_environments_is_as_good_as_an_id(policy, make):
    """Reported as SB3#259: an environment that has no id."""
    assert score(policy, make) == score(policy, POINT) == score(policy, env_id=POINT)


def test_a_function_is_called_at_most_max_live_times_and_its_environments_are_closed(policy, two_threads):
    made = []
    closed = []

    class Counted(PointEnv):
        def __init__(self):
            super().__init__()
            made.append(self)

        def close(self):
            closed.append(self)

    expected = score(policy, POINT, num_episodes=40)
    for max_live, count in ((1, 1), (3, 3), (100, 40)):
        made.clear()
        closed.clear()
        assert score(policy, Counted, num_episodes=40, max_live=max_live) == expected
        assert len(made) == count
        assert set(map(id, closed)) == set(map(id, made))


def test_one_environment_is_used_for_all_episodes_and_stays_open(policy):
    """Reported as ml-agents#5674: an environment that exists once, and is expensive to start."""
    closed = []

    class Mine(PointEnv):
        def close(self):
            closed.append(self)

    mine = Mine()
    assert score(policy, mine) == score(policy, POINT)
    assert score(policy, mine, max_live=1) == score(policy, POINT)
    assert not closed
    assert evaluate(policy, mine, target_returns=[5.0], num_episodes=1).env_id == "Mine"
    assert evaluate(policy, make_environment(POINT), target_returns=[5.0], num_episodes=1).env_id == POINT
    assert "pass a function that makes" in refusal(policy, mine, max_live=2).fix


def test_an_environment_that_can_be_open_once_is_evaluated_with_max_live_one(policy, two_threads):
    """Reported as ml-agents#5674: OSError from the second environment."""
    for given in (OPEN_ONCE, OpenOnceEnv):
        error = refusal(policy, given)
        assert "1 are open, and another one cannot be made" in error.problem
        assert "the port is in use" in error.problem
        assert "--max-live 1" in error.fix
        assert not OpenOnceEnv.is_open  # the first one was closed
        assert score(policy, given, num_episodes=40, max_live=1) == score(policy, POINT, num_episodes=40)


def test_max_live_is_shared_by_the_processes(policy, two_threads, monkeypatch):
    started = []

    def run_here(share, count, check):
        started.append(count)
        return [share(which) for which in range(count)]

    monkeypatch.setattr(episodes_module, "run_in_processes", run_here)
    expected = score(policy, POINT, num_episodes=40)
    started.clear()
    for max_live in (1, 2, 3, None):
        assert score(policy, POINT, num_episodes=40, max_live=max_live) == expected
    assert started == [2, 2, 2]
    for max_live in (0, -1):
        assert refusal(policy, POINT, max_live=max_live).where == "max_live"


def test_no_more_than_max_live_are_open_over_all_processes(policy, two_threads, tmp_path):
    """The one whose spaces are checked counts, too."""
    expected = score(policy, POINT, num_episodes=40)
    for licenses in (1, 2, 3):
        options = {"env_kwargs": {"folder": str(tmp_path), "licenses": licenses}, "max_live": licenses}
        assert score(policy, LICENSED, num_episodes=40, **options) == expected
        assert not list(tmp_path.iterdir())


def test_a_function_that_returns_one_environment_again_is_refused(policy):
    """Its episodes would have disturbed each other, silently."""
    mine = PointEnv()
    for wrappers in ([], [gym.Wrapper]):
        error = refusal(policy, lambda: mine, wrappers=wrappers)
        assert "returned the same environment twice" in error.problem
        assert score(policy, lambda: mine, max_live=1, wrappers=wrappers) == score(policy, POINT)


def test_what_would_have_no_effect_is_refused(policy):
    assert refusal(policy, PointEnv(), env_kwargs={"size": 2}).where == "env_kwargs"
    assert refusal(policy, PointEnv, env_kwargs={"size": 2}).where == "env_kwargs"
    assert refusal(policy, PointEnv(), env_id=POINT).where == "env_id"
    error = refusal(policy, POINT, env_kwargs={"render_mode": "ansi"}, record=1)
    assert "a recording needs 'rgb_array'" in error.problem


def test_spaces_are_checked_before_more_than_one_environment_is_made(policy):
    """80 copies of a warning of MuJoCo came before the one line that mattered."""
    made = []

    class Wide(PointEnv):
        def __init__(self):
            super().__init__()
            made.append(self)
            self.observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)

    assert "observations are vectors of 3" in refusal(policy, Wide, num_episodes=80).problem
    assert len(made) == 1


def test_an_environment_with_a_space_that_is_not_supported_is_closed(policy):
    class Worded(OpenOnceEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Text(5)

    assert "the space Text is not supported" in refusal(policy, Worded).problem
    assert not OpenOnceEnv.is_open


@pytest.mark.filterwarnings("default")
def test_a_warning_of_the_constructor_is_shown_once(policy, recwarn):
    """A sibling of the copies of MuJoCo's warning: here the spaces fit."""
    import warnings

    class Chatty(PointEnv):
        def __init__(self):
            super().__init__()
            warnings.simplefilter("always")
            warnings.warn("this version is old", stacklevel=1)

    score(policy, Chatty, num_episodes=20)
    assert len([w for w in recwarn if "this version is old" in str(w.message)]) == 1


def test_wrappers_are_named_or_passed_and_their_arguments_are_json(policy):
    class Doubled(gym.RewardWrapper):
        def reward(self, reward):
            return 2 * reward

    plain = score(policy, POINT, wrappers=['TimeLimit={"max_episode_steps": 5}'])
    for given in (POINT, PointEnv, PointEnv()):
        report = evaluate(
            policy, given, target_returns=[5.0], num_episodes=5, seed=3, wrappers=['TimeLimit={"max_episode_steps": 5}']
        )
        assert report.targets[0].episode_returns == plain
        assert report.targets[0].episode_lengths == [5] * 5
        assert report.wrappers == ['TimeLimit={"max_episode_steps": 5}']
    clipped = score(policy, POINT, wrappers=['ClipReward={"min_reward": 0, "max_reward": 0.1}', Doubled])
    assert max(clipped) <= 2 * 0.1 * 12 + 1e-6


@pytest.mark.parametrize(
    ("wrapper", "problem", "fix"),
    [
        ("FlattenObservatoin", "no such class", "did you mean FlattenObservation"),
        ("vector", "no such class", "MODULE:CLASS"),
        ("TimeLimit", "missing 1 required positional argument", "TimeLimit={"),
        ("TimeLimit={5}", "is not a JSON object", "single quotes"),
        ("TimeLimit=[5]", "is not a JSON object", "single quotes"),
        ("json:Wrapper", "json has no such class", "define Wrapper"),
        ("no_module:Wrapper", "cannot be imported", "working directory"),
        ("Autoreset", "does not fit an evaluation", "leave it out"),
    ],
)
def test_a_wrapper_that_cannot_be_applied_is_refused(policy, wrapper, problem, fix):
    error = refusal(policy, POINT, wrappers=[wrapper])
    assert problem in error.problem
    assert fix in error.fix


def test_evaluation_while_training_takes_the_same_options(tmp_path):
    options = {
        "env_id": SIZED,
        "env_kwargs": {"size": 2.0},
        "max_steps": 7,
        "max_live": 1,
        "wrappers": ["RecordEpisodeStatistics"],
        "target_returns": [4.0],
        "num_episodes": 2,
    }
    folder = train(tiny_config(tmp_path / "run", evaluation=options), dataset=point_data())
    report = json.loads((folder / "report.json").read_text())
    assert report["env_kwargs"] == {"size": 2.0}
    assert report["wrappers"] == ["RecordEpisodeStatistics"]
    assert report["max_steps"] == 7
    (target,) = report["targets"]
    assert target["episode_lengths"] == [7, 7]
    assert target["truncated_by_limit"] == 2
    for name in ("max_live", "max_steps", "env_kwargs", "wrappers"):
        config = tiny_config(tmp_path / "other", evaluation={name: options[name]})
        with pytest.raises(RLTransformerError, match=f"evaluation.{name}: {name} without an environment"):
            config.check()
