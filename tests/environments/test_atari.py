"""Claims about Atari: the two protocols are what they say, and scripted players make data of any quality."""

import gzip
import json

import gymnasium
import numpy as np
import pytest

from rl_transformer import RLTransformerError, open_trajectories
from rl_transformer.cli.main import main
from rl_transformer.environments.atari import PROTOCOLS, atari_arguments, protocol_of
from rl_transformer.environments.making import make_environment
from rl_transformer.environments.scripted import scripted_behavior
from rl_transformer.environments.sources import EnvironmentSource, opened
from rl_transformer.evaluation.collection import record_episodes

PONG = "ALE/Pong-v5"
BREAKOUT = "ALE/Breakout-v5"


def play(env_id, script, episodes, *, protocol="paper", max_steps=None, seed=0):
    source = EnvironmentSource.of(env_id, **atari_arguments(env_id, protocol))
    with opened(source) as live:
        behavior = scripted_behavior(script, live.environment)
        _, trajectories = record_episodes(
            live.environment, env_id, episodes, seed=seed, behavior=behavior, max_steps=max_steps
        )
        return list(trajectories)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_shows_gray_frames_of_four_and_repeats_actions_as_it_says(protocol):
    with opened(EnvironmentSource.of(PONG, **atari_arguments(PONG, protocol))) as live:
        assert live.environment.observation_space.shape == (84, 84)
        ale = live.environment.unwrapped.ale
        assert ale.getFloat("repeat_action_probability") == {"paper": 0.0, "modern": 0.25}[protocol]
        live.reset(3)
        before = ale.getEpisodeFrameNumber()
        live.step(0)
        assert ale.getEpisodeFrameNumber() - before == 4
        starts = []
        for seed in range(6):
            live.reset(seed)
            starts.append(ale.getEpisodeFrameNumber())
        # Up to thirty actions that do nothing begin an episode of the paper's protocol.
        assert (len(set(starts)) > 1) == (protocol == "paper")
        assert max(starts) <= min(starts) + 30


def test_the_larger_of_two_frames_is_shown():
    """A frame is the maximum of the last two, because some games draw an object in every second one only."""
    shown = make_environment(BREAKOUT, env_kwargs={"frameskip": 1, "repeat_action_probability": 0.0})
    wrapped = gymnasium.wrappers.AtariPreprocessing(shown, noop_max=0, screen_size=84)
    wrapped.reset(seed=0)
    frame = wrapped.step(1)[0]
    plain = make_environment(BREAKOUT, env_kwargs={"frameskip": 1, "repeat_action_probability": 0.0})
    plain.reset(seed=0)
    frames = []
    for _ in range(4):
        plain.step(1)
        frames.append(plain.unwrapped.ale.getScreenGrayscale())
    import cv2

    expected = cv2.resize(np.maximum(*frames[-2:]), (84, 84), interpolation=cv2.INTER_AREA)
    assert np.array_equal(frame, expected)
    wrapped.close()
    plain.close()


@pytest.mark.parametrize("game", [PONG, BREAKOUT])
def test_a_tracker_is_better_the_less_noise_it_has(game):
    good, bad = (
        np.mean([walk.rewards.sum() for walk in play(game, f"scripted:tracker?noise={noise}", 2, max_steps=1200)])
        for noise in (0.0, 0.95)
    )
    assert good > bad + 2


def test_scripted_episodes_are_repeated_by_their_seed_and_draw_their_own_noise():
    one, again = (play(BREAKOUT, "scripted:tracker?noise=0..1", 3, max_steps=300, seed=5) for _ in range(2))
    for walk, other in zip(one, again, strict=True):
        assert np.array_equal(walk.observations, other.observations)
        assert np.array_equal(walk.actions, other.actions)
    assert len({walk.actions.tobytes() for walk in one}) == 3


def test_a_game_is_recorded_from_the_command_line_with_what_makes_it_again(tmp_path, capsys):
    words = ["collect", BREAKOUT, "--atari-protocol", "paper", "--policy", "scripted:tracker?noise=0.2"]
    output = str(tmp_path / "games")
    assert main([*words, "--num-episodes", "2", "--max-steps", "40", "--output", output]) == 0
    data = open_trajectories(f"rlt:{output}")
    assert data.spec.observation_space.image_shape == (1, 84, 84)
    assert dict(data.spec.env_kwargs) == PROTOCOLS["paper"].env_kwargs
    assert list(data.spec.env_wrappers) == [*PROTOCOLS["paper"].wrappers, 'TimeLimit={"max_episode_steps": 40}']
    small = ["--model.hidden_size", "16", "--model.n_layer", "1", "--windows.context_length", "4"]
    run = str(tmp_path / "run")
    train = ["train", "atari", "--data", f"rlt:{output}", "--output", run, "--train-steps", "2", *small]
    assert main([*train, "--training.batch_size", "4"]) == 0
    score = ["evaluate", run, "--env-id", BREAKOUT, "--atari-protocol", "modern", "--num-episodes", "2"]
    report = tmp_path / "report.json"
    assert main([*score, "--max-steps", "20", "--target-return", "5", "--json", str(report)]) == 0
    written = json.loads(report.read_text())
    assert (written["env_kwargs"], written["protocol"]) == (PROTOCOLS["modern"].env_kwargs, "modern")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--atari-protocol", "old"], "there is no protocol 'old'"),
        (["--atari-protocol", "paper", "--env-kwargs", '{"frameskip": 4}'], "frameskip is set by the protocol, too"),
        (["--policy", "scripted:genius"], "there is no script 'scripted:genius'"),
        (["--policy", "scripted:tracker?noise=2"], "'2' is not a share of random actions"),
        (["--policy", "scripted:tracker", "--target-return", "3"], "scripted and random actions have no target"),
    ],
    ids=str,
)
def test_bad_words_are_refused(words, problem, tmp_path, capsys):
    assert main(["collect", PONG, "--num-episodes", "1", "--output", str(tmp_path / "x"), *words]) == 2
    assert problem in capsys.readouterr().err


def test_other_environments_have_neither_protocol_nor_tracker(tmp_path, capsys):
    words = ["collect", "CartPole-v1", "--num-episodes", "1", "--output", str(tmp_path / "x")]
    assert main([*words, "--atari-protocol", "paper"]) == 2
    assert "is not a game of ale-py" in capsys.readouterr().err
    assert main([*words, "--policy", "scripted:tracker"]) == 2
    assert "there is no tracker for CartPole" in capsys.readouterr().err
    with pytest.raises(RLTransformerError, match="there is no protocol"):
        atari_arguments(PONG, "best")


@pytest.mark.parametrize("game", [PONG, BREAKOUT])
def test_a_replay_folder_of_real_play_is_read_bit_for_bit(game, tmp_path, capsys):
    """Recorded twice by the same command, as a store and as replay buffers."""
    command = ["collect", game, "--atari-protocol", "paper", "--policy", "scripted:tracker?noise=0..1"]
    command += ["--num-episodes", "3", "--max-steps", "260"]
    assert main([*command, "--output", str(tmp_path / "store")]) == 0
    capsys.readouterr()
    assert main([*command, "--output", str(tmp_path / "replay"), "--layout", "dqn-replay"]) == 0
    printed = capsys.readouterr().out
    uri = printed.partition("wrote ")[2].split()[0]
    assert uri == f"dqn-replay:{tmp_path / 'replay'}?game={game[4:-3]}"
    stored = open_trajectories(f"rlt:{tmp_path / 'store'}")
    replay = open_trajectories(uri)
    assert np.array_equal(replay.observations, stored.observations)
    assert np.array_equal(replay.actions, stored.actions)
    assert np.array_equal(replay.offsets, stored.offsets)
    assert np.array_equal(replay.rewards, np.clip(stored.rewards, -1, 1))
    assert replay.spec.action_space == stored.spec.action_space
    cut_off = int((~stored.summary.terminated).sum())
    assert (f"{cut_off} of 3 games were cut off" in printed) == bool(cut_off)
    # The same files as numpy and gzip read them, which is how other libraries do.
    with gzip.open(tmp_path / "replay/$store$_observation_ckpt.0.gz") as file:
        assert np.array_equal(np.load(file), stored.observations[:, 0])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_is_named_only_where_nothing_differs_from_it(protocol):
    arguments = atari_arguments(PONG, protocol)
    assert protocol_of(PONG, **arguments) == protocol
    assert protocol_of(PONG, arguments["env_kwargs"], [*arguments["wrappers"], "ClipReward"]) is None
    assert protocol_of(PONG, {**arguments["env_kwargs"], "difficulty": 1}, arguments["wrappers"]) is None
    assert protocol_of("CartPole-v1", **arguments) is None
