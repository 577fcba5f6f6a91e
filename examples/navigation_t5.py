"""Learn to walk to a goal on a grid, with T5's decoder as the trunk."""

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

from rl_transformer import TrajectoryDataset
from rl_transformer.models.decision_transformer import DecisionTransformer
from rl_transformer.utils.data import BatchSampler, Dataset
from rl_transformer.utils.evaluation import batch_loss, evaluate

MOVES = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])


def walk(random):
    """Return one episode: observations are vectors to the goal, half of the moves are random, each costs 1."""
    observations = [random.integers(1, 6, size=2)]
    actions = []
    while observations[-1].any() and len(actions) < 30:
        actions.append(random.choice([np.abs(observations[-1] - MOVES).sum(axis=1).argmin(), random.integers(4)]))
        observations.append(observations[-1] - MOVES[actions[-1]])
    return {"observations": observations, "actions": actions, "rewards": -np.ones(len(actions)), "terminated": True}


def main(t5, epochs=5, episodes=300):
    data = TrajectoryDataset.from_episodes([walk(np.random.default_rng(seed)) for seed in range(episodes)])
    train = Dataset(data, split="train", context_length=8)
    validation = Dataset(data, split="validation", context_length=8)
    model = DecisionTransformer(transformer=t5, dataset=train)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for batch in BatchSampler(train, batch_size=32, seed=epoch):
            optimizer.zero_grad()
            batch_loss(model, batch).backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {evaluate(model, train):.3f}, validation {evaluate(model, validation):.3f}")


if __name__ == "__main__":  # or T5ForConditionalGeneration.from_pretrained("t5-small")
    main(T5ForConditionalGeneration(T5Config(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)))
