"""From logged data to a policy, and to a table of target and achieved returns. The task is CartPole."""

import gymnasium as gym
import numpy as np

import rl_transformer as rlt


def record_episode(environment, seed):
    """Return one episode of a controller that follows the falling pole, and acts at random part of the time."""
    random = np.random.default_rng(seed)
    skill = random.uniform(0, 1)
    observation, _ = environment.reset(seed=seed)
    observations = [observation]
    actions = []
    rewards = []
    terminated = False
    truncated = False
    while not (terminated or truncated):
        angle = observation[2] + 0.5 * observation[3]
        action = int(angle > 0) if random.uniform() < skill else int(random.integers(2))
        observation, reward, terminated, truncated, _ = environment.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
    return {
        "observations": np.array(observations),
        "actions": np.array(actions),
        "rewards": np.array(rewards),
        "terminated": terminated,
        "truncated": truncated,
    }


def main(folder, num_episodes=200, train_steps=500):
    environment = gym.make("CartPole-v1")
    data = rlt.TrajectoryDataset.from_episodes(
        [record_episode(environment, seed) for seed in range(num_episodes)],
        observation_space=environment.observation_space,
        action_space=environment.action_space,
    )
    print(f"{data}, mean return {data.episode_returns.mean():.0f}, largest {data.episode_returns.max():.0f}")

    config = rlt.preset("fast")
    config.dataset.uri = "recorded above"
    config.output = str(folder)
    config.training.train_steps = train_steps
    config.training.batch_size = 64
    config.training.warmup_steps = 50
    policy = rlt.load_policy(rlt.train(config, dataset=data, resume=True))

    print(rlt.evaluate(policy, env_id="CartPole-v1", target_returns=[20, 100, 200, 500], num_episodes=20))


if __name__ == "__main__":
    main("runs/example-01")
