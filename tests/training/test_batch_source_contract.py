"""Claims about everything that batches come from: draws follow from seed and step, and batches can be shared out."""

import dataclasses

import numpy as np
import pytest
import torch

from rl_transformer.language.config import SyntheticConfig
from rl_transformer.language.synthetic import RandomSequences
from rl_transformer.language.text import TextSequences
from rl_transformer.windows.gathering import ConditionColumn, WindowGatherer, WindowSource
from rl_transformer.windows.normalization import Normalizer
from rl_transformer.windows.sampling import WindowSampler
from tests.toys import camera_data, telling_data

CPU = torch.device("cpu")
BATCH_SIZE = 12
LENGTHS = (4, 7, 2, 5)
WINDOW_LENGTH = 3  # windows near an episode's end are shorter, and the episode of 2 steps fills none


def windows(seed):
    data = telling_data(LENGTHS)
    gatherer = WindowGatherer(
        data,
        conditions=[ConditionColumn(data.returns_to_go, 10.0)],
        window_length=WINDOW_LENGTH,
        max_timesteps=7,
        normalizer=Normalizer.from_data(data.spec, data.statistics, action_tanh=False),
    )
    return WindowSource(WindowSampler(data.offsets, np.arange(len(LENGTHS)), seed=seed), gatherer, BATCH_SIZE)


def balanced_windows(seed):
    source = windows(seed)
    data = telling_data(LENGTHS)
    sampler = WindowSampler(
        data.offsets,
        np.arange(len(LENGTHS)),
        seed=seed,
        return_balance=0.5,
        episode_returns=data.episode_returns,
    )
    return WindowSource(sampler, source.gatherer, BATCH_SIZE)


def shifted_images(seed):
    data = camera_data()
    gatherer = WindowGatherer(
        data,
        conditions=[],
        window_length=WINDOW_LENGTH,
        max_timesteps=9,
        normalizer=Normalizer.from_data(data.spec, data.statistics, action_tanh=False),
        frame_stack=2,
    )
    sampler = WindowSampler(data.offsets, np.arange(len(data)), seed=seed)
    return WindowSource(sampler, gatherer, BATCH_SIZE, image_shift=3)


def text(seed):
    return TextSequences(np.arange(100, dtype=np.int32), length=6, batch_size=BATCH_SIZE, seed=seed, device=CPU)


def chains(seed):
    return RandomSequences(SyntheticConfig(states=5, length=8), batch_size=BATCH_SIZE, seed=seed, device=CPU)


SOURCES = {
    "windows": windows,
    "balanced windows": balanced_windows,
    "shifted images": shifted_images,
    "text": text,
    "random sequences": chains,
}


@pytest.fixture(params=SOURCES)
def make_source(request):
    return SOURCES[request.param]


def tensors_of(batch):
    """Return the tensors of a batch by name."""
    if isinstance(batch, torch.Tensor):
        return {"tokens": batch}
    found = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def items_of(index):
    """Return an index as plain numbers."""
    if isinstance(index, np.ndarray):
        return index.tolist()
    shifts = None if index.shifts is None else index.shifts.tolist()
    return [index.rows.tolist(), index.trajectories.tolist(), shifts]


def test_a_draw_is_a_function_of_seed_and_step_alone(make_source):
    source = make_source(seed=3)
    first = items_of(source.draw(5))
    for step in (1, 6, 10**6):
        assert items_of(source.draw(step)) != first
    assert items_of(source.draw(5)) == first  # whatever was drawn in between
    assert items_of(make_source(seed=3).draw(5)) == first  # by another process, or after a restart
    assert items_of(make_source(seed=4).draw(5)) != first
    assert len(source.draw(5)) == BATCH_SIZE


def test_a_batch_is_a_function_of_its_index_alone(make_source):
    source = make_source(seed=3)
    index = source.draw(5)
    first = tensors_of(source.gather(index))
    source.gather(source.draw(6))
    for name, tensor in tensors_of(source.gather(index)).items():
        assert torch.equal(tensor, first[name]), name
        assert tensor.device == source.device


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_slices_of_a_draw_gather_to_slices_of_the_batch(make_source, world_size):
    source = make_source(seed=3)
    index = source.draw(5)
    whole = tensors_of(source.gather(index))
    share = BATCH_SIZE // world_size
    for rank in range(world_size):
        place = slice(rank * share, (rank + 1) * share)
        part = tensors_of(source.gather(index[place]))
        assert part.keys() == whole.keys()
        for name, tensor in part.items():
            assert torch.equal(tensor, whole[name][place]), name


def naive_count(batch):
    """Count the predictions of a batch: real steps of windows, tokens of a sequence but its first."""
    if isinstance(batch, torch.Tensor):
        return sum(1 for sequence in batch.tolist() for _ in sequence[1:])
    return sum(1 for window in batch.valid_mask.tolist() for is_real in window if is_real)


def test_valid_predictions_are_counted_as_a_naive_loop_counts_them(make_source):
    source = make_source(seed=3)
    for step in range(1, 20):
        index = source.draw(step)
        assert source.count_valid(index) == naive_count(source.gather(index))
        parts = [index[:5], index[5:]]
        assert sum(source.count_valid(part) for part in parts) == source.count_valid(index)


def test_real_steps_are_those_up_to_the_end_of_the_episode():
    """The mask that the count above is compared with, against the lengths of the episodes."""
    source = windows(seed=3)
    index = source.draw(1)
    ends = np.cumsum(LENGTHS)
    expected = [min(WINDOW_LENGTH, ends[e] - row) for row, e in zip(index.rows, index.trajectories, strict=True)]
    assert source.gather(index).valid_mask.sum(1).tolist() == expected
    assert min(expected) < WINDOW_LENGTH


def test_items_are_described_by_where_they_come_from(make_source):
    source = make_source(seed=3)
    index = source.draw(5)[:2]
    description = source.describe(index)
    origins = index.tolist() if isinstance(index, np.ndarray) else index.trajectories.tolist()
    assert isinstance(description, str)
    for origin in origins:
        assert str(origin) in description
