"""Claims about naming environments: modules of the user, packages to install, and what the policy knows."""

import sys
from dataclasses import dataclass, replace

import gymnasium as gym
import pytest

from rl_transformer import RLTransformerError, evaluate
from rl_transformer.environments import packages
from rl_transformer.environments.making import make_environment, source_note
from rl_transformer.environments.packages import PACKAGES, install_command, package_of
from rl_transformer.policy.policy import Policy
from rl_transformer.trajectories.data_spec import DataSpec
from tests.toys import POINT, point_data, untrained_policy

MODULE = """
import gymnasium as gym
from tests.toys import PointEnv

class Doubled(gym.RewardWrapper):
    def reward(self, reward):
        return 2 * reward

gym.register("{name}/Mine-v0", entry_point=PointEnv)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in the working directory that registers an environment; forgotten afterwards."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    yield name
    sys.modules.pop(name, None)
    gym.registry.pop(f"{name}/Mine-v0", None)


def refusal(env_id):
    with pytest.raises(RLTransformerError) as caught:
        make_environment(env_id)
    return caught.value


def test_a_module_in_the_working_directory_registers_an_environment(module):
    """`rlt` is a script, whose own folder is searched for modules, and not the working directory."""
    assert make_environment(f"{module}:{module}/Mine-v0").spec.id == f"{module}/Mine-v0"
    policy = untrained_policy(point_data())
    both = [
        evaluate(policy, f"{module}:{module}/Mine-v0", target_returns=[5.0], num_episodes=2, wrappers=wrappers)
        for wrappers in ([], [f"{module}:Doubled"])
    ]
    assert both[0].env_id == f"{module}:{module}/Mine-v0"
    assert both[0].targets[0].mean != both[1].targets[0].mean


def test_a_module_that_does_not_register_the_id_is_told_how(module):
    error = refusal(f"{module}:Other-v0")
    assert f"let {module} register it: gymnasium.register('Other-v0', entry_point=...)" in error.fix
    assert "No module named 'no_such_module'" in refusal("no_such_module:Mine-v0").problem
    assert f"did you mean {module}:{module}/Mine-v0" in refusal(f"{module}:{module}/Mime-v0").fix


@pytest.mark.parametrize("name", ["a:b:c", ":Mine-v0", "module:"])
def test_what_is_no_module_and_id_is_refused(name):
    assert refusal(name).fix == "write it as my_module:MyEnvironment-v0"


@pytest.mark.parametrize(
    ("env_id", "package"),
    [
        ("ALE/Breakout-v5", "ale-py"),
        ("BreakoutNoFrameskip-v4", "ale-py"),
        ("MiniGrid-Empty-5x5-v0", "minigrid"),
        ("BabyAI-GoToRedBall-v0", "minigrid"),
        ("FetchReach-v4", "gymnasium-robotics"),
        ("AdroitHandDoor-v1", "gymnasium-robotics"),
        ("PointMaze_UMaze-v3", "gymnasium-robotics"),
        ("FrankaKitchen-v1", "gymnasium-robotics"),
        ("PandaReach-v3", "panda-gym"),
        ("highway-fast-v0", "highway-env"),
        ("Meta-World/MT1", "metaworld"),
    ],
)
def test_an_id_of_a_known_package_is_answered_with_how_to_install_it(env_id, package, monkeypatch):
    """Atari's environments are not found before ale-py is installed and imported."""
    monkeypatch.setattr(packages, "find_spec", lambda module: None)
    for known in [known for known in gym.registry if package_of(known)]:
        monkeypatch.delitem(gym.registry, known)  # of packages that are installed for other tests
    assert f"pip install {package}" in refusal(env_id).fix


def test_a_known_package_that_is_installed_is_imported_by_itself(module, monkeypatch):
    """After the installation that the fix names, the same command works."""
    installed = packages.Package("mine", module, f"{module}/")
    monkeypatch.setattr(packages, "PACKAGES", (installed,))
    monkeypatch.syspath_prepend(".")
    assert make_environment(f"{module}/Mine-v0").spec.id == f"{module}/Mine-v0"


def test_no_known_package_claims_an_environment_that_is_already_there():
    make_environment(POINT)
    claimed = [(env_id, package_of(env_id)) for env_id in gym.registry if package_of(env_id)]
    # gymnasium itself imports ale-py where it is installed.
    assert not [pair for pair in claimed if not str(gym.registry[pair[0]].entry_point).startswith("ale_py")]
    assert len({package.module for package in PACKAGES}) == len(PACKAGES)


@pytest.mark.filterwarnings("ignore")
def test_other_unknown_ids_are_answered_with_near_ones_and_the_form_of_a_module():
    error = refusal("CartPol-v1")
    assert "did you mean CartPole-v1" in error.fix
    assert "write MODULE:CartPol-v1" in error.fix
    assert "did you mean CartPole-v1" in refusal("CartPole-v7").fix
    assert "write MODULE:Some/Thing-v0" in refusal("Some/Thing-v0").fix
    assert "MODULE:ID" in refusal("").fix
    assert "use Hopper-v5" in refusal("Hopper-v2").fix  # the old versions are in another package


def test_the_command_of_a_message_about_a_missing_package_is_the_fix():
    box2d = 'Box2D is not installed, run `pip install swig` followed by `pip install "gymnasium[box2d]"`'
    assert install_command(box2d) == 'pip install swig && pip install "gymnasium[box2d]"'
    either = 'run `pip install "shimmy[gym-v21]"` or `pip install "shimmy[gym-v26]"`'
    assert install_command(either) == 'pip install "shimmy[gym-v21]"'
    assert install_command("No module named 'jax'") == "pip install jax"
    assert "rl-transformer[mujoco]" in install_command("MuJoCo is not installed, run `pip install x`")
    assert install_command("something else") is None


# What the policy knows


@dataclass(frozen=True)
class RecordedSpec(DataSpec):
    """The description of data that says how its environment was made."""

    env_kwargs: dict | None = None
    max_episode_steps: int | None = None


def policy_of(source):
    policy = untrained_policy(point_data())
    spec = policy.spec.data
    data = RecordedSpec(spec.observation_space, spec.action_space, "recorded", **source)
    return Policy(replace(policy.spec, data=data), policy.model, policy.normalizer)


def test_an_evaluation_without_an_environment_quotes_the_one_that_the_policy_knows():
    known = policy_of({"env_id": POINT})
    with pytest.raises(RLTransformerError, match=f"to act there, pass --env-id {POINT}"):
        evaluate(known, target_returns=[5.0])
    hostile = policy_of({"env_id": "X-v0; rm -rf ~"})
    with pytest.raises(RLTransformerError, match="--env-id 'X-v0; rm -rf ~'"):
        evaluate(hostile, target_returns=[5.0])
    with pytest.raises(RLTransformerError, match="for example --env-id CartPole-v1"):
        evaluate(untrained_policy(point_data()), target_returns=[5.0])


def test_an_environment_of_the_datas_id_with_other_arguments_is_noted():
    """Reported as Minari#304: CartPole with sutton_barto_reward scored 13.3 instead of -1."""
    data = policy_of({"env_id": "CartPole-v1", "env_kwargs": {"sutton_barto_reward": True}}).spec.data
    made = {"sutton_barto_reward": True}
    assert "note: other sutton_barto_reward than in the data" in source_note(make_environment("CartPole-v1"), data)
    assert source_note(make_environment("CartPole-v1", env_kwargs=made), data) is None
    assert source_note(make_environment(POINT), data) is None
    limited = replace(data, env_kwargs=None, max_episode_steps=50)
    assert "note: other max_episode_steps" in source_note(make_environment("CartPole-v1"), limited)
    assert source_note(make_environment("CartPole-v1"), limited, max_steps=50) is None
    assert source_note(make_environment("CartPole-v1", env_kwargs={"max_episode_steps": 50}), limited) is None
    assert source_note(make_environment("CartPole-v1"), replace(limited, max_episode_steps=500)) is None


def test_the_note_is_in_the_report():
    known = policy_of({"env_id": POINT, "max_episode_steps": 5})
    report = evaluate(known, POINT, target_returns=[5.0], num_episodes=1)
    assert report.to_dict()["environment_note"] in str(report)
    assert evaluate(known, POINT, target_returns=[5.0], num_episodes=1, max_steps=5).environment_note is None
