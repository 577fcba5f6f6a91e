"""Claims about evaluation while training: every option of it reaches the evaluation."""

from rl_transformer.evaluation import evaluate as evaluate_module
from rl_transformer.evaluation.in_training import PolicyEvaluator
from tests.toys import POINT, point_data, tiny_config, untrained_policy


def test_the_options_of_the_run_are_those_of_the_evaluation(monkeypatch):
    options = {"target_returns": [4.0, 5.0], "num_episodes": 3, "seed": 7, "max_live": 1, "max_steps": 9}
    options |= {"env_kwargs": {"max_episode_steps": 11}, "wrappers": ["RecordEpisodeStatistics"]}
    config = tiny_config("unused", evaluation={"env_id": POINT, **options})
    evaluator = PolicyEvaluator(untrained_policy(point_data()), config.evaluation)
    given = {}
    monkeypatch.setattr(evaluate_module, "evaluate", lambda policy, **arguments: given.update(arguments))
    evaluator.run()
    assert {name: given[name] for name in options} == options
