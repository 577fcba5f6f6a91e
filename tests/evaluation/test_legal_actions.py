"""Claims about masks of legal actions that environments report."""

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer import RLTransformerError, TrajectoryDataset, evaluate, open_trajectories, train
from rl_transformer.environments.legal_actions import legal_actions
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.trajectories.spaces import Space
from tests.environments.foreign import MaskedEnv, MaskedPartsEnv
from tests.toys import PointEnv, point_data, tiny_config, untrained_policy

MASKED = "tests/Masked-v0"
if MASKED not in gym.registry:
    gym.register(MASKED, entry_point=MaskedEnv)
FORMS = [
    "joined",
    lambda masks: masks,
    lambda masks: [mask.astype(np.int8) for mask in masks],
    lambda masks: [mask.tolist() for mask in masks],
]


def recorded(environment, **options):
    return TrajectoryDataset.in_memory(*record_episodes(environment, "masked", 8, seed=0, **options))


@pytest.fixture(scope="module")
def data():
    return recorded(MaskedEnv())


@pytest.fixture(scope="module")
def policy(data):
    return untrained_policy(data)


def actions_of(data):
    return data.actions.reshape(data.num_trajectories, -1)


@pytest.mark.parametrize("report", ["info", "method", lambda mask: mask.tolist(), lambda mask: mask.astype(float)])
def test_a_policy_chooses_legal_actions_only(policy, report):
    """The environment raises for an illegal one; without the mask it does so at once."""
    for sampling in (False, True):
        options = {"policy": {"action_selection": "sample"}} if sampling else {}
        acting = untrained_policy(recorded(MaskedEnv()), **options)
        evaluated = evaluate(acting, lambda: MaskedEnv(report), target_returns=[5.0], num_episodes=6)
        assert evaluated.targets[0].episode_lengths == [6] * 6
        steps = actions_of(recorded(MaskedEnv(report), policy=acting, target=5.0))
        assert (steps % 2 == (np.arange(6) + 1) % 2).all()


def test_random_actions_are_legal(data):
    assert (actions_of(data) % 2 == (np.arange(6) + 1) % 2).all()
    assert set(actions_of(data)[:, 1].tolist()) == {0, 2, 4}


def test_masks_are_recorded_and_read_back_from_a_store(data, tmp_path):
    """At step t of this environment, values of the other parity than t are legal."""
    data.save(tmp_path / "store")
    for masks in (data.action_masks, open_trajectories(f"rlt:{tmp_path / 'store'}").action_masks):
        masks = np.asarray(masks).reshape(data.num_trajectories, 6, -1)
        steps = np.arange(6)[:, None]
        assert (masks == ((np.arange(masks.shape[2]) + steps) % 2 == 1)).all()


def test_masks_are_recorded_from_the_first_one_on_and_steps_without_one_allow_everything():
    class LateMasks(MaskedEnv):
        def _mask(self):
            return super()._mask() | (self.steps == 0)

        def reset(self, **options):
            observation, _ = super().reset(**options)
            return observation, {}

    masks = recorded(LateMasks()).action_masks
    assert masks[0].all()
    assert not masks[1].all()


@pytest.mark.parametrize("first", [True, False])
def test_masks_that_only_some_episodes_have_are_recorded_in_all_or_in_none(first, capsys):
    class Sometimes(MaskedEnv):
        episodes = 0

        def _mask(self):
            return super()._mask() | (not self._tells())

        def _tells(self):
            return (self.episodes % 2 == 1) == first

        def _info(self):
            return super()._info() if self._tells() else {}

        def reset(self, **options):
            self.episodes += 1
            return super().reset(**options)

    masks = recorded(Sometimes()).action_masks
    note = "masks of legal actions of 4 episodes were not recorded"
    if first:
        masks = np.asarray(masks).reshape(8, 6, 5)
        assert masks[1::2].all()
        assert not masks[::2].all(axis=(1, 2)).any()
        assert note not in capsys.readouterr().out
    else:
        assert masks is None
        assert note in capsys.readouterr().out


def test_a_behavior_that_does_not_see_masks_is_recorded_without_them():
    """What is legal it may find out in other ways, but it may also choose what is not."""
    data = recorded(MaskedEnv(), behavior=lambda observation, random: 1 - round(6 * observation[0]) % 2)
    assert data.action_masks is None


def test_a_mask_behind_wrappers_is_found(policy):
    """SB3-contrib's convention: action_masks() of the environment, or of the one that it wraps."""
    wrapped = gym.wrappers.TimeLimit(gym.wrappers.OrderEnforcing(MaskedEnv("method")), 100)
    assert evaluate(policy, wrapped, target_returns=[5.0], num_episodes=2).targets[0].episode_lengths == [6, 6]


@pytest.mark.parametrize("form", FORMS)
def test_parts_of_an_action_have_masks_of_their_own(form):
    data = recorded(MaskedPartsEnv(form))
    acting = untrained_policy(data)
    report = evaluate(acting, lambda: MaskedPartsEnv(form), target_returns=[6.0], num_episodes=4)
    assert report.targets[0].episode_lengths == [6] * 4
    recorded(MaskedPartsEnv(form), policy=acting, target=6.0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda mask: mask[:3], "its action mask has shape (3,), and the actions have 5 values"),
        (lambda mask: np.append(mask, True), "its action mask has shape (6,)"),
        (lambda mask: mask[:, None], "its action mask has shape (5, 1)"),
        (lambda mask: np.zeros(5), "its action mask forbids every action"),
        (lambda mask: np.arange(5), "its action mask has values other than 0 and 1"),
        (lambda mask: np.where(mask, 0, -np.inf), "its action mask has values other than 0 and 1"),
        (lambda mask: {"legal": mask}, "its action mask has shape ()"),
        (lambda mask: "all", "its action mask has shape ()"),
    ],
)
def test_a_mask_that_is_none_is_refused_by_name(policy, change, problem):
    for run in (
        lambda: evaluate(policy, MaskedEnv(change), target_returns=[5.0], num_episodes=1),
        lambda: recorded(MaskedEnv(change)),
        lambda: recorded(MaskedEnv(change), policy=policy, target=5.0),
    ):
        with pytest.raises(RLTransformerError) as caught:
            run()
        assert problem in caught.value.problem
        assert caught.value.where in ("MaskedEnv", "masked")


def test_a_part_without_a_legal_value_is_named():
    space = Space.multi_discrete([3, 2])
    with pytest.raises(RLTransformerError, match="forbids every value of part 1"):
        legal_actions([1, 1, 1, 0, 0], space, where="e")
    for wrong in ([[1, 1, 1]], [[1, 1], [1, 1, 1]], [1, 1, 1, 1], np.ones((2, 3)), 1):
        with pytest.raises(RLTransformerError, match="or one mask per part of lengths"):
            legal_actions(wrong, space, where="e")
    assert legal_actions(np.ones((2, 2)), Space.multi_discrete([2, 2]), where="e").tolist() == [True] * 4


def test_an_exception_of_action_masks_is_blamed_on_the_environment(policy):
    environment = MaskedEnv("method")
    environment.action_masks = lambda: 1 / 0
    with pytest.raises(RLTransformerError, match=r"its action_masks\(\) raised ZeroDivisionError"):
        evaluate(policy, environment, target_returns=[5.0], num_episodes=1)


def test_a_mask_of_an_environment_with_continuous_actions_has_no_meaning():
    class Point(PointEnv):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0], {"action_mask": "none"}

    policy = untrained_policy(point_data())
    assert evaluate(policy, Point(), target_returns=[5.0], num_episodes=1).targets[0].episode_lengths == [12]


def test_masks_are_used_while_training_too(tmp_path, data):
    evaluation = {"env_id": MASKED, "target_returns": [4.0], "num_episodes": 2}
    assert (train(tiny_config(tmp_path / "run", evaluation=evaluation), dataset=data) / "report.json").exists()
