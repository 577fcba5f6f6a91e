"""Claims about `rlt judge`: the policy acts on logs as a session would, and the command says what it rests on."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import rl_transformer as rlt
from rl_transformer.cli.main import main
from rl_transformer.critics.networks import FitOptions
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.offline.action_kinds import Candidate
from rl_transformer.evaluation.offline.estimators import FITTED_Q, logged_value
from rl_transformer.evaluation.offline.gates import HELD_OUT, held_out_gate, split_gates
from rl_transformer.evaluation.offline.judge import _doubt, estimate_sides, judge_candidate
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.evaluation.offline.page import as_html, as_text
from rl_transformer.evaluation.offline.policy_actions import action_probabilities
from rl_transformer.policy import Policy, load_policy
from rl_transformer.policy.advice import TargetAdvice
from rl_transformer.run import train
from rl_transformer.runtime.files import to_json
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.subset import take_episodes
from tests.toys import dials_data, tiny_config, untrained_policy

QUICK = FitOptions(hidden_size=16, behavior_updates=60, critic_updates=60)


def choices(num_episodes=60, seed=0, propensity=False):
    """Episodes of a few steps, in which action 1 earns 1 and is taken half of the time; one action is forbidden."""
    random = np.random.default_rng(seed)
    episodes = []
    for _ in range(num_episodes):
        length = int(random.integers(2, 6))
        actions = random.integers(0, 2, length)
        allowed = np.ones((length, 3), dtype=bool)
        allowed[:, 2] = False
        extra = {"propensity": np.full(length, 0.5)} if propensity else {}
        episodes.append(
            {
                "observations": random.normal(size=(length, 2)),
                "actions": actions,
                "rewards": (actions == 1).astype(float),
                "terminated": True,
                "allowed": allowed,
                **extra,
            }
        )
    return TrajectoryDataset.from_episodes(episodes, action_space=Space.discrete(3))


def sampling(policy) -> Policy:
    return Policy(replace(policy.spec, action_selection="sample"), policy.model, policy.normalizer, policy.return_model)


@pytest.mark.parametrize("selection", ["sample", "greedy"])
def test_a_policy_acts_on_logs_as_a_session_that_lives_them(selection):
    data = choices(8)
    policy = untrained_policy(data, model={"conditions": ["return_to_go"]})
    policy = sampling(policy) if selection == "sample" else policy
    found = action_probabilities(policy, data, 4.0)
    for episode in range(len(data)):
        session = policy.session(target_return=4.0)
        for row in range(int(data.offsets[episode]), int(data.offsets[episode + 1])):
            action, info = session.act(data.observations[row], allowed=data.action_masks[row], return_info=True)
            expected = info["action_probabilities"] if selection == "sample" else np.eye(3)[action]
            np.testing.assert_allclose(found[row], expected, atol=1e-6)
            session.observe(data.rewards[row], action=int(data.actions[row]))
            assert session.return_to_go == pytest.approx(4.0 - data.rewards[data.offsets[episode] : row + 1].sum())


def test_the_target_is_what_the_policy_is_given_and_not_what_the_episode_earned():
    data = choices(8)
    policy = sampling(untrained_policy(data))
    assert not np.allclose(action_probabilities(policy, data, 0.0), action_probabilities(policy, data, 5.0))


def test_a_target_that_follows_from_the_start_is_used_and_named_as_such():
    data = choices(60, propensity=True)
    plain = sampling(untrained_policy(data))
    advice = TargetAdvice(
        coefficients=(1.0, 0.0), intercept=2.0, residuals=(0.0,) * 101, level=50, luck=0.0, least_share=0.1
    )
    policy = Policy(replace(plain.spec, advice=advice), plain.model, plain.normalizer, plain.return_model)
    found = action_probabilities(policy, data, None)
    first = int(data.offsets[3])
    _, info = policy.session().act(data.observations[first], allowed=data.action_masks[first], return_info=True)
    np.testing.assert_allclose(found[first], info["action_probabilities"], atol=1e-6)
    for candidate, text in (
        (Candidate(policy), "Target return: advised at the start of each episode, "),
        (Candidate(policy, 2.0), "Target return: 2."),
    ):
        result = judge_candidate(candidate, data, options=QUICK)
        assert result["target"]["depends_on_start"] == (candidate.target_return is None)
        assert text in as_html({"run": "run", "data": "log", **result})


def test_parts_of_an_action_are_judged_as_one():
    data = take_episodes(dials_data(20), range(10))
    policy = sampling(untrained_policy(data))
    found = action_probabilities(policy, data, None)
    assert found.shape[1] == np.prod(data.spec.action_space.nvec)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    session = policy.session()
    _, info = session.act(data.trajectory(0).observations[0], return_info=True)
    joint = np.multiply.outer(*map(np.array, info["action_probabilities"])).ravel()
    np.testing.assert_allclose(found[0], joint, atol=1e-6)


def test_recorded_propensities_are_used_and_must_be_probabilities():
    data = choices(propensity=True)
    policy = sampling(untrained_policy(data))
    result = judge_candidate(Candidate(policy), data, options=QUICK)
    assert result["behavior"]["propensities"].startswith("recorded in the column")
    with pytest.raises(RLTransformerError, match="no column 'score'"):
        judge_candidate(Candidate(policy), data, options=QUICK, propensity="score")
    data.columns["propensity"][3] = 1.5
    with pytest.raises(RLTransformerError, match="probability"):
        judge_candidate(Candidate(policy), data, options=QUICK)


def test_intervals_know_the_halves_of_the_log_that_networks_were_fitted_on():
    data = choices(propensity=True)
    policy = sampling(untrained_policy(data))
    logged, [(steps, side, _)] = estimate_sides([Candidate(policy)], data, options=QUICK)
    folds = side.deciding.folds
    assert folds is not None
    assert set(folds) == {0, 1}
    np.testing.assert_array_equal(np.repeat(folds, data.lengths), logged.actions.folds)
    # Fitted Q evaluation counts starting states alone, and for the log's own mean nothing was fitted.
    assert side.estimates[FITTED_Q].folds is None
    assert all(estimate.folds is steps.folds for name, estimate in side.estimates.items() if name != FITTED_Q)
    assert logged_value(steps).folds is None


def test_a_policy_that_clearly_earns_more_is_called_better():
    data = choices(800, propensity=True)
    policy = sampling(untrained_policy(data))

    class Prefers(torch.nn.Module):
        """Takes action 1 with probability 0.8 where the behavior takes it with 0.5."""

        num_allowed = 3
        num_uniforms = 1

        def forward(self, hidden):
            return torch.tensor([0.2, 0.8, 1e-9]).log().expand(*hidden.shape[:-1], 3)

        def probabilities(self, parameters, allowed=None):
            return (parameters.masked_fill(~allowed, -torch.inf).double().softmax(-1),)

    policy.model.predict_action = Prefers()
    result = judge_candidate(
        Candidate(policy), data, options=FitOptions(hidden_size=32, behavior_updates=60, critic_updates=300)
    )
    assert result["verdict"] == "better", as_text(result)
    gain = 0.3 * data.lengths.mean()
    low, high = result["difference"]["interval"]
    assert low - 0.1 < gain < high + 0.1


def test_an_estimate_beyond_what_was_earned_or_can_be_says_so():
    data = choices(propensity=True)
    steps = LoggedSteps(
        np.asarray(data.offsets),
        np.ones(data.num_steps),
        np.zeros(data.num_steps),
        np.full(data.num_steps, np.log(0.5)),
    )
    longest = int(data.lengths.max())
    assert _doubt(longest, steps) is None
    assert "possible (1 to 5)" in _doubt(longest + 0.1, steps)
    few = replace(steps, rewards=np.where(steps.timesteps == 0, 1.0, 0.0))
    assert "in the log (1 to 1)" in _doubt(1.5, few)
    result = judge_candidate(Candidate(untrained_policy(data)), data, options=QUICK)
    assert result["possible_returns"]["high"] == longest
    estimates = result["estimates"]
    estimates[FITTED_Q]["doubt"] = "outside the range of returns that are <possible>"
    assert "; OUTSIDE THE RANGE OF RETURNS" in as_text(result)
    assert "outside the range of returns that are &lt;possible&gt;" in as_html({"run": "run", "data": "log", **result})


def test_a_policy_judged_on_its_training_data_gets_no_verdict_for_it():
    data = choices()
    policy = untrained_policy(data)
    assert held_out_gate(policy, data).passed is False
    assert held_out_gate(policy, choices(seed=1)).passed is True


def test_what_no_gate_could_check_is_said_once():
    texts = [gate.text for gate in split_gates(choices(12), choices(12, seed=1), (), ()) if gate.passed is None]
    assert [text for text in texts if "not checked" in text] == [
        "not checked whether the two share entities (name their columns with --entity) or times (convert the table "
        "with --keep TIME)"
    ]


def test_the_page_escapes_what_comes_from_outside():
    data = choices()
    result = judge_candidate(Candidate(untrained_policy(data)), data, options=QUICK)
    page = as_html({"run": "<script>alert(1)</script>", "data": "rlt:<b>", **result})
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert set(re.findall(r"https?://[\w.]+", page)) <= {"http://www.w3.org"}  # names of SVG, not addresses


def test_a_reader_is_told_why_an_interval_is_wide():
    data = choices(200, propensity=True)
    result = judge_candidate(Candidate(sampling(untrained_policy(data))), data, options=QUICK)
    difference = {**result["difference"], "supported": True, "value": 0.1, "interval": [0.0, 0.2]}
    for widened, is_said in ((1.0, False), (1.4, False), (2.34, True)):
        shown = {**result, "run": "run", "data": "log", "difference": {**difference, "widened_by": widened}}
        for page in (as_text(shown), as_html(shown)):
            assert (
                "2.3 times as wide as the episodes alone would make it, because the halves of the log disagree" in page
            ) == is_said


FIELDS = {"verdict", "estimates", "behavior", "support", "gates", "what_would_settle"}


def test_the_command_writes_its_fields_and_ends_with_0_whatever_the_word(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rl_transformer.critics.networks.FitOptions.__init__.__defaults__", (16, 40, 40, 1e-3, 0.05, 0))
    train(tiny_config(tmp_path / "run", dataset={"validation_fraction": 0.5}), dataset=choices(120))
    train(tiny_config(tmp_path / "other", training={"seed": 1}), dataset=choices(120))
    choices(80, seed=5).save(tmp_path / "test")
    command = ["judge", str(tmp_path / "run"), "--data", f"rlt:{tmp_path / 'test'}", "--json", str(tmp_path / "j.json")]
    for against in ("behavior", str(tmp_path / "other")):
        assert main([*command, "--against", against, "--html", str(tmp_path / "j.html")]) == 0
        result = json.loads((tmp_path / "j.json").read_text())
        assert set(result) >= FIELDS
        for estimate in result["estimates"].values():
            assert set(estimate) >= {"value", "interval", "unit", "assumptions"}
        assert (tmp_path / "j.html").read_text().startswith("<!doctype html>")
    assert HELD_OUT in capsys.readouterr().out


def test_python_gives_what_the_command_gives(tmp_path, monkeypatch):
    monkeypatch.setattr("rl_transformer.critics.networks.FitOptions.__init__.__defaults__", (16, 40, 40, 1e-3, 0.05, 0))
    training, test = choices(60), choices(80, seed=5, propensity=True)
    for name, data in (("training", training), ("test", test)):
        data.save(tmp_path / name)
    config = tiny_config(tmp_path / "run")
    config.dataset.uri = f"rlt:{tmp_path / 'training'}"
    policy = load_policy(train(config))
    command = ["judge", str(tmp_path / "run"), "--data", f"rlt:{tmp_path / 'test'}", "--target-return", "3"]
    assert main([*command, "--margin", "0.1", "--seed", "2", "--json", str(tmp_path / "j.json")]) == 0
    printed = json.loads((tmp_path / "j.json").read_text())
    result = rlt.judge(policy, test, training=training, target_return=3.0, margin=0.1, seed=2)
    named = {"run", "data"}
    assert {key: value for key, value in json.loads(to_json(result)).items() if key not in named} == {
        key: value for key, value in printed.items() if key not in named
    }
    assert result["verdict"].upper() in as_text(result)
    assert "<!doctype html>" in as_html(result)


def test_python_withholds_the_verdict_where_training_and_test_share_episodes(monkeypatch, tmp_path):
    monkeypatch.setattr("rl_transformer.critics.networks.FitOptions.__init__.__defaults__", (16, 40, 40, 1e-3, 0.05, 0))
    data = choices(120, propensity=True)
    test = take_episodes(data, range(40, 120))
    policy = load_policy(train(tiny_config(tmp_path / "run"), dataset=data))

    def states(episodes, **options):
        gates = rlt.judge(policy, episodes, **options)["gates"]
        return {state: [gate["text"] for gate in gates if gate["state"] == state] for state in ("failed", "not run")}

    assert any("trained on these very episodes" in text for text in states(data)["failed"])
    unseen = states(test)
    assert not unseen["failed"]
    assert any("training data is not available" in text for text in unseen["not run"])
    assert all("episode is in both" in text for text in states(test, training=data)["failed"])
    assert states(test, training=data)["failed"]
    # Of two policies, each is checked.
    other = load_policy(train(tiny_config(tmp_path / "other"), dataset=test))
    assert any("trained on these very episodes" in text for text in states(test, against=other)["failed"])


def test_parts_of_a_dataset_have_fingerprints_of_their_own():
    data = choices(10)
    parts = [take_episodes(data, chosen).fingerprint for chosen in (range(5), range(5, 10), range(5), range(10))]
    assert parts[0] == parts[2]
    assert len({*parts, data.fingerprint}) == 3
    assert parts[3] == data.fingerprint


def test_of_the_training_data_only_held_out_episodes_are_judged(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rl_transformer.critics.networks.FitOptions.__init__.__defaults__", (16, 40, 40, 1e-3, 0.05, 0))
    choices(120).save(tmp_path / "data")
    config = tiny_config(tmp_path / "run", dataset={"validation_fraction": 0.5})
    config.dataset.uri = f"rlt:{tmp_path / 'data'}"
    train(config)
    assert main(["judge", str(tmp_path / "run"), "--data", config.dataset.uri]) == 0
    assert "60 episodes that training held out" in capsys.readouterr().out
