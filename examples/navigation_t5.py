"""Find the goal on a small grid, seen as images, with T5 as the trunk: python examples/navigation_t5.py [T5 folder or Hub id]."""

import sys

import numpy as np
import torch
from gymnasium import spaces
from transformers import T5Config, T5ForConditionalGeneration

from rl_transformer import TrajectoryDataset
from rl_transformer.models.decision_transformer import DecisionTransformer
from rl_transformer.training.losses import action_loss
from rl_transformer.windows.gathering import WindowGatherer
from rl_transformer.windows.sampling import WindowSampler, split_trajectories
from rl_transformer.windows.normalization import Normalizer

MOVES, CELL, GRID = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)]), 6, 6


def picture(me, goal):
    grid = np.zeros((2, GRID, GRID), np.uint8)
    grid[0][tuple(me)], grid[1][tuple(goal)] = 255, 255
    return grid.repeat(CELL, 1).repeat(CELL, 2)


def walk(random):  # one episode: moves towards the goal, a third of them at random; -1 a step
    me, goal = random.permutation(GRID * GRID)[:2, None] // [GRID, 1] % GRID
    seen, actions = [picture(me, goal)], []
    while (me != goal).any() and len(actions) < 30:
        better = [a for a, move in enumerate(MOVES) if abs(me + move - goal).sum() < abs(me - goal).sum()]
        actions.append(random.integers(4) if random.random() < 1 / 3 else random.choice(better))
        me = np.clip(me + MOVES[actions[-1]], 0, GRID - 1)
        seen.append(picture(me, goal))
    return {"observations": seen, "actions": actions, "rewards": -np.ones(len(actions)), "terminated": True}


def main(t5, epochs=5, episodes=300, steps=30):
    views = spaces.Box(0, 255, (2, GRID * CELL, GRID * CELL), np.uint8)
    walks = [walk(np.random.default_rng(seed)) for seed in range(episodes)]
    data = TrajectoryDataset.from_episodes(walks, observation_space=views, action_space=spaces.Discrete(4))
    train, held_out = (WindowSampler(data.offsets, part, seed=0) for part in split_trajectories(len(data), 0.2, seed=0))
    units = {"scaling": Scaling.of(data.spec, None, action_tanh=False), "condition_scales": [10.0], "max_timesteps": 30}
    windows = WindowGatherer(data, conditions=[data.returns_to_go], window_length=8, **units)
    model = DecisionTransformer(transformer=t5, state_dim=views.shape, act_dim=4, action_head="discrete", max_ep_len=30)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        total = 0.0
        for step in range(epoch * steps, (epoch + 1) * steps):
            loss = action_loss(model.train(), windows.gather(train.draw(step, 32)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() / steps
        validation = action_loss(model.eval(), windows.gather(held_out.draw(0, 256)))  # on episodes kept aside
        print(f"epoch {epoch}: training loss {total:.3f}, validation loss {validation:.3f}")


if __name__ == "__main__":
    small = T5Config(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    main(T5ForConditionalGeneration.from_pretrained(sys.argv[1]) if sys.argv[1:] else T5ForConditionalGeneration(small))
