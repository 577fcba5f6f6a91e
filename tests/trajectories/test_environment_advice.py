"""Claims about the advice that names the environment of the data: it is complete, and works when it is followed."""

import inspect
import json
import shlex

import gymnasium as gym
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from rl_transformer import open_trajectories
from rl_transformer.cli.main import main
from rl_transformer.trajectories import environment_advice
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.inspection import as_text, describe
from rl_transformer.trajectories.readers.minari import _environment
from rl_transformer.trajectories.spaces import Space
from tests.trajectories.foreign_files import write_minari


class Mine(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """A wrapper of the user's own."""

    def __init__(self, env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)


def recorded_in(environment, tmp_path, monkeypatch):
    """Return the URI of a Minari dataset of two episodes in an environment."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    observations = [environment.reset(seed=0)[0]]
    steps = []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        action = environment.action_space.sample()
        observation, *outcome, _ = environment.step(action)
        observations.append(observation)
        steps.append((action, *outcome))
    columns = [np.array(column) for column in zip(*steps, strict=True)]
    names = ("actions", "rewards", "terminations", "truncations")
    buffer = EpisodeBuffer(observations=np.array(observations), **dict(zip(names, columns, strict=True)))
    spaces = environment.observation_space, environment.action_space
    return write_minari("toy/wrapped-v0", [buffer, buffer], *spaces, env=environment.spec)


def test_the_advice_makes_the_wrapped_environment_again(tmp_path, monkeypatch, capsys):
    """The printed options are those of `rlt evaluate`, and an evaluation with them runs."""
    environment = gym.wrappers.RescaleAction(gym.make("Pendulum-v1", max_episode_steps=3), -1, 1)
    environment = gym.wrappers.FlattenObservation(gym.wrappers.FrameStackObservation(environment, 2))
    uri = recorded_in(gym.wrappers.RecordEpisodeStatistics(environment), tmp_path, monkeypatch)
    options = (
        "--env-id Pendulum-v1 --env-kwargs '{\"max_episode_steps\": 3}' "
        '--wrapper \'RescaleAction={"min_action": -1, "max_action": 1}\' '
        '--wrapper \'FrameStackObservation={"stack_size": 2, "padding_type": "reset"}\' '
        "--wrapper FlattenObservation"
    )
    assert as_text(describe(open_trajectories(uri))).splitlines()[3].endswith(f"to act there, pass {options}")
    run = str(tmp_path / "run")
    quick = ["--train-steps", "1", "--model.hidden_size", "8", "--training.batch_size", "2"]
    assert main(["train", "gym", "--data", uri, "--output", run, *quick]) == 0
    command = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: rlt "))
    assert options in command
    assert main(["evaluate", run]) == 2
    assert options in capsys.readouterr().err
    assert main([*shlex.split(command.removeprefix("next: rlt ")), "--num-episodes", "1"]) == 0


def test_an_environment_whose_pictures_are_observed_keeps_its_render_mode():
    spec = {"id": "CartPole-v1", "kwargs": {"render_mode": "rgb_array"}}
    assert _environment({"env_spec": json.dumps(spec)})["env_kwargs"] is None
    spec["additional_wrappers"] = [{"name": "AddRenderObservation", "kwargs": {"render_only": True}}]
    assert _environment({"env_spec": json.dumps(spec)})["env_kwargs"] == {"render_mode": "rgb_array"}


def test_wrappers_of_other_packages_are_named_and_not_in_the_options(tmp_path, monkeypatch):
    environment = Mine(gym.wrappers.RescaleAction(gym.make("Pendulum-v1", max_episode_steps=3), -1, 1))
    spec = open_trajectories(recorded_in(environment, tmp_path, monkeypatch)).spec
    assert spec.environment_options.count("--wrapper") == 1
    assert f"wrap it again in {Mine.__module__}:Mine; all wrappers, innermost first: RescaleAction=" in (
        spec.environment_note
    )


@pytest.mark.parametrize("wrapper", ["RescaleAction", "my_module:ClipAction", "RescaleAction={", "ClipAction=[]", "No"])
def test_a_wrapper_that_the_command_line_could_not_make_is_only_named(wrapper):
    spec = DataSpec(Space.box((1,)), Space.discrete(2), env_id="X-v0", env_wrappers=(wrapper,))
    assert spec.environment_options == "--env-id X-v0"
    assert spec.environment_note.endswith(f"it was wrapped, so wrap it again in {wrapper}")


def test_the_wrappers_that_need_arguments_are_those_of_gymnasium():
    needed = environment_advice._NEED_ARGUMENTS
    for name in {*needed, *environment_advice._NEED_NO_ARGUMENTS} - {"JaxToNumpy", "JaxToTorch", "NumpyToTorch"}:
        parameters = list(inspect.signature(getattr(gym.wrappers, name).__init__).parameters.values())[2:]
        assert any(p.default is p.empty for p in parameters) == (name in needed), name
