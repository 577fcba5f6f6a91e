"""Claims about `training.image_shift`: it shifts training windows as DrQ does, follows from (seed, step), and nothing else."""

import shutil

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, train
from rl_transformer.cli.main import main
from rl_transformer.launch import seeds
from rl_transformer.launch.seeds import assemble_run, train_seeds
from rl_transformer.training import cuda_graph
from rl_transformer.training.metrics import read_metrics
from rl_transformer.windows import gathering
from rl_transformer.windows.image_shift import draw_shifts, shift_images
from rl_transformer.windows.sampling import WindowIndex
from tests.toys import camera_data, point_data, tiny_config
from tests.training.runs import assert_close_weights, assert_equal_runs, model_weights

SHIFTED = {"training": {"image_shift": 3}, "model": {"frame_stack": 2}}


def config_of(folder, *, training=None, **sections):
    return tiny_config(folder, training=SHIFTED["training"] | (training or {}), model=SHIFTED["model"], **sections)


def padded_crop(image, most, row, column):
    """The definition in DrQ: pad by ``most`` pixels that repeat the border, and cut out at (row, column)."""
    padded = np.pad(image, ((0, 0), (most, most), (most, most)), mode="edge")
    height, width = image.shape[-2:]
    return padded[:, row : row + height, column : column + width]


@pytest.mark.parametrize("most", [1, 4, 36])
def test_a_shift_is_a_crop_of_the_padded_image_in_a_naive_loop(most):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 3, 2, 37, 52), dtype=np.uint8)
    shifts = draw_shifts(0, 1, 6, most)
    shifts[0] = (-most, most)
    shifted = shift_images(torch.from_numpy(images), torch.from_numpy(shifts)).numpy()
    assert shifted.dtype == np.uint8
    for window, (row, column) in enumerate(shifts + most):
        for t in range(3):
            expected = padded_crop(images[window, t], most, row, column)
            np.testing.assert_array_equal(shifted[window, t], expected)


def test_every_shift_up_to_the_largest_is_drawn_as_often_and_as_a_function_of_seed_and_step():
    drawn = draw_shifts(3, 7, 20_000, 2)
    values, counts = np.unique(drawn, axis=0, return_counts=True)
    assert values.tolist() == [[row, column] for row in range(-2, 3) for column in range(-2, 3)]
    assert counts.min() > 650  # of 800 on average
    assert np.array_equal(drawn, draw_shifts(3, 7, 20_000, 2))
    for other in (draw_shifts(4, 7, 20_000, 2), draw_shifts(3, 8, 20_000, 2)):
        assert not np.array_equal(drawn, other)


def test_states_and_next_states_of_a_window_are_shifted_alike(tmp_path):
    source = assemble_run(config_of(tmp_path / "run"), camera_data()).windows
    index = source.draw(1)
    shifted = source.gatherer.gather(index, extra=("next_states",))
    plain = source.gatherer.gather(WindowIndex(index.rows, index.trajectories), extra=("next_states",))
    for name in ("states", "next_states"):
        for window, (row, column) in enumerate(index.shifts + 3):
            for t in range(plain.states.shape[1]):
                image = getattr(plain, name)[window, t].numpy()
                assert np.array_equal(getattr(shifted, name)[window, t].numpy(), padded_crop(image, 3, row, column))
    assert torch.equal(shifted.actions, plain.actions)


@pytest.fixture
def shifted_batches(monkeypatch):
    """Return a list that gets the size of every batch that is shifted."""
    sizes = []
    genuine = gathering.shift_batch

    def spy(batch, shifts):
        sizes.append(len(shifts))
        return genuine(batch, shifts)

    for module in (gathering, cuda_graph):
        monkeypatch.setattr(module, "shift_batch", spy)
    return sizes


@pytest.mark.parametrize(("returns", "count"), [({}, 12), ({"predict": True}, 24), ({"label": "expected"}, 48)])
def test_training_batches_are_shifted_and_those_of_evaluations_are_not(returns, count, shifted_batches, tmp_path):
    """The batches of return models are training batches, too: one model, or that and one for each of two folds."""
    sections = {"dataset": {"validation_fraction": 0.5}, "evaluation": {"every": 4}, "returns": returns}
    train(config_of(tmp_path / "run", **sections), dataset=camera_data())
    assert shifted_batches == [8] * count


def test_without_a_shift_windows_are_those_of_the_sampler(shifted_batches, tmp_path):
    run = assemble_run(config_of(tmp_path / "run", training={"image_shift": 0}), camera_data())
    index = run.windows.draw(5)
    expected = run.windows.sampler.draw(5, 8)
    assert index.shifts is None
    assert np.array_equal(index.rows, expected.rows)
    # The windows of a step are the same with a shift.
    with_shift = assemble_run(config_of(tmp_path / "shifted"), camera_data()).windows.draw(5)
    assert np.array_equal(with_shift.rows, expected.rows)
    train(config_of(tmp_path / "zero", training={"image_shift": 0}), dataset=camera_data())
    assert not shifted_batches


@pytest.mark.parametrize("label", ["realized", "expected"])
def test_a_resumed_run_with_shifts_is_the_uninterrupted_run_to_the_bit(label, tmp_path):
    data = camera_data()
    options = {"training": {"keep_checkpoints": 99}, "returns": {"label": label}}
    whole = train(config_of(tmp_path / "whole", **options), dataset=data)
    ignored = shutil.ignore_patterns("policy", "finished.json", "step-8", "step-12")
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut, ignore=ignored)
    train(config_of(cut, **options), resume=True, dataset=data)
    assert_equal_runs(whole, cut)


def test_blocks_of_updates_shift_as_the_plain_loop_does(blocks, shifted_batches, tmp_path):
    options = {"model": SHIFTED["model"] | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)}
    folders = {}
    for on in (False, True):
        blocks(on)
        config = tiny_config(tmp_path / str(on), training=SHIFTED["training"], **options)
        folders[on] = train(config, dataset=camera_data())
    assert shifted_batches == [8] * 24
    assert_close_weights(model_weights(folders[True]), model_weights(folders[False]), atol=1e-5)


def test_seeds_trained_together_shift_as_each_does_alone(blocks, shifted_batches, monkeypatch, tmp_path):
    blocks(True)
    monkeypatch.setattr(seeds, "can_stack_seeds", lambda config: True)

    def config(folder, **more):
        training = SHIFTED["training"] | {"train_steps": 3} | more
        return tiny_config(tmp_path / folder, training=training)

    alone = [train(config(f"alone-{seed}", seed=seed), dataset=camera_data()) for seed in (0, 3)]
    together = train_seeds(config("together"), (0, 3), dataset=camera_data())
    assert shifted_batches == [8] * 6 + [16] * 3
    for one, other in zip(together, alone, strict=True):
        for found, expected in zip(read_metrics(one), read_metrics(other), strict=True):
            assert found == pytest.approx(expected, rel=1e-5)
        # A tenth of one update: stacked convolutions round differently, and Adam makes steps of tiny gradients.
        assert_close_weights(model_weights(one), model_weights(other), atol=1e-4)


def test_vectors_and_shifts_as_large_as_the_image_are_refused_and_the_fix_works(tmp_path):
    with pytest.raises(RLTransformerError, match="only a single image can be shifted") as caught:
        train(tiny_config(tmp_path / "run", training={"image_shift": 2}), dataset=point_data())
    assert (caught.value.where, caught.value.fix) == ("training.image_shift", "set it to 0")
    train(tiny_config(tmp_path / "run", training={"image_shift": 0}), dataset=point_data())
    with pytest.raises(RLTransformerError, match="36 x 36") as caught:
        train(config_of(tmp_path / "large", training={"image_shift": 36}), dataset=camera_data())
    assert caught.value.where == "training.image_shift"
    assert "less than 36" in caught.value.fix
    train(config_of(tmp_path / "large", training={"image_shift": 35, "train_steps": 1}), dataset=camera_data())


def test_a_language_model_has_no_images_to_shift(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a text of some words " * 200)
    arguments = ["pretrain", "text", "--data", str(tmp_path / "text.txt"), "--output", str(tmp_path / "run")]
    assert main([*arguments, "--training.image_shift", "2"]) == 2
    assert "training.image_shift" in capsys.readouterr().err
