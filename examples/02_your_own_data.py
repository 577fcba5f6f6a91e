"""From a table of your own to a policy that acts without a simulator. The table is the log of a heated room."""

import numpy as np

import rl_transformer as rlt


def make_log(num_days, seed=0):
    """Return columns as a database would: one row per hour, 24 rows per day."""
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(num_days), 24)
    outside = 5 * np.sin(np.arange(24 * num_days) * 2 * np.pi / 24) + random.normal(size=24 * num_days)
    habit = np.repeat(random.uniform(0, 1, size=num_days), 24)  # some days somebody heats a lot, some days little
    heating = np.clip(habit + 0.2 * random.normal(size=24 * num_days), 0, 1)
    room = 15 + outside / 5 + 8 * heating
    comfort = -np.abs(room - 20)
    return {"day": day, "outside": outside, "room": room, "heating": heating, "comfort": comfort}


def to_episodes(log):
    """Cut the table into one episode per day; the day's end is a limit, not an end of the task."""
    episodes = []
    for day in np.unique(log["day"]):
        rows = log["day"] == day
        # The observation of an hour is what was known before its action: the hour before it.
        room = np.concatenate([[20.0], log["room"][rows][:-1]])
        episodes.append(
            {
                "observations": np.stack([room, log["outside"][rows]], axis=1),
                "actions": log["heating"][rows][:, None],
                "rewards": log["comfort"][rows],
                "truncated": True,
            }
        )
    return episodes


def main(folder, num_days=300, train_steps=300):
    heating = rlt.Space.box((1,), 0, 1)
    data = rlt.TrajectoryDataset.from_episodes(to_episodes(make_log(num_days)), action_space=heating)
    config = rlt.preset("fast")
    config.dataset.uri = "heating log"
    config.output = str(folder)
    config.training.train_steps = train_steps
    config.training.batch_size = 64
    config.training.warmup_steps = 50
    policy = rlt.load_policy(rlt.train(config, dataset=data, resume=True))

    session = policy.session()  # it aims for the advised return; `rlt targets runs/example-02` says why
    for room, outside, comfort in [(20.0, 0.0, -0.5), (19.5, 1.0, -0.2), (19.8, 2.5, -0.1)]:
        action = session.act(np.array([room, outside]))  # what to do now
        session.observe(comfort)  # how it went, once that is known
        print(f"room {room}, outside {outside}: heat {action[0]:.2f}; return still to come {session.return_to_go:.1f}")


if __name__ == "__main__":
    main("runs/example-02")
