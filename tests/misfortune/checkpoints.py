"""Damages the checkpoints of a run, and looks at which one the run goes on from, which ones stay, and what is said."""

import contextlib
import io
import shutil

import numpy as np

from rl_transformer import RLTransformerError, train
from rl_transformer.training.checkpoint import newest_verified, prune_checkpoints
from tests.misfortune import damage
from tests.misfortune.tally import Tally, silenced, without_waiting
from tests.toys import point_data, tiny_config
from tests.training.runs import assert_equal_runs

STEPS = (3, 6, 9, 12)
FILES = ("state.json", "state.safetensors", "manifest.json")
RESUMED_EVERY = 200
"""Of so many damaged folders, one is given to a resumed run."""
_TINY = {"model": {"hidden_size": 8, "n_layer": 1}, "windows": {"context_length": 3}}
_TRAINING = {"batch_size": 4, "checkpoint_every": 3, "keep_checkpoints": len(STEPS), "ema_decay": 0.9}


def config_of(folder, **training):
    return tiny_config(folder, **_TINY, training={**_TRAINING, **training})


def make_run(folder, **training):
    """Train a run that is whole except for what comes after its last checkpoint."""
    train(config_of(folder, **training), dataset=point_data(8))
    return folder


def unfinished(run, folder):
    """Copy a run as a kill after its last checkpoint leaves it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("policy", "finished.json"))
    return folder


def take_name(checkpoint, random, others):
    """Exchange the names of two checkpoints."""
    other = others[random.integers(len(others))]
    away = checkpoint.with_name("away")
    checkpoint.rename(away)
    other.rename(checkpoint)
    away.rename(other)
    return f"named {other.name}"


DAMAGES = {**damage.DAMAGES, "names": take_name}


class Damaged:
    """Damages copies of one run's checkpoints.

    Args:
        root: Folder to work in.
    """

    def __init__(self, root):
        self.whole = make_run(root / "whole")
        self.work = root / "work"
        self.data = point_data(8)
        self.content = {step: self._content(self.whole / f"checkpoints/step-{step}") for step in STEPS}

    def _content(self, checkpoint):
        try:
            return [(checkpoint / name).read_bytes() for name in FILES if not (checkpoint / name).is_symlink()]
        except OSError:
            return None

    def damage(self, random):
        """Damage one to four checkpoints in one to two ways; return what was done."""
        unfinished(self.whole, self.work)
        chosen = random.permutation(STEPS)[: 1 + random.choice(4, p=[0.7, 0.15, 0.1, 0.05])]
        if max(STEPS) not in chosen and random.random() < 0.7:
            chosen[0] = max(STEPS)  # otherwise nothing shows
        done = []
        for step in chosen:
            checkpoint = self.work / f"checkpoints/step-{step}"
            names = list(DAMAGES)
            name = names[random.integers(len(names))]
            with contextlib.suppress(OSError, ValueError):  # another damage was there
                others = [checkpoint.with_name(f"step-{other}") for other in STEPS if other != step]
                done.append((name, f"step-{step} {DAMAGES[name](checkpoint, random, others)}"))
        return done

    def judge(self, *, resumed):
        """Check what is used and kept of the damaged checkpoints; return the outcome."""
        folder = self.work / "checkpoints"
        present = {path.name for path in folder.iterdir()}
        whole = [step for step in STEPS if self._content(folder / f"step-{step}") == self.content[step]]
        damaged = [step for step in STEPS if step not in whole]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            used = newest_verified(folder, report=True)
        newest = max(whole, default=0)
        step = 0 if used is None else int(used.name[5:])
        # A damage may be without effect, such as another order of the manifest; then what is read must be what was written.
        assert step >= newest, f"step {newest} is whole, and {step} was taken"
        harmless = [s for s in damaged if self._is_harmless(folder / f"step-{s}", s)]
        assert step in (newest, *harmless), f"step {step} is damaged and was taken"
        for other in damaged:
            if other > step:
                assert f"step-{other} is damaged and is not used" in said.getvalue(), f"nothing is said of step {other}"
        self._prune(folder, present, {*whole, *harmless})
        if resumed:
            self._resume()
        return "refused" if step < max(STEPS) else "used"

    def _is_harmless(self, checkpoint, step):
        return all(
            (checkpoint / name).is_file() and (checkpoint / name).read_bytes() == content
            for name, content in list(zip(FILES, self.content[step], strict=True))[:2]
        )

    def _prune(self, folder, present, intact):
        prune_checkpoints(folder, 2)
        left = {path.name for path in folder.iterdir()}
        for name in present - left:
            newer = [step for step in intact if f"step-{step}" in left and step > int(name[5:])]
            assert len(newer) >= 2, f"{name} was deleted, and only {newer} are newer and whole"

    def _resume(self):
        train(config_of(self.work), resume=True, dataset=self.data)
        assert_equal_runs(self.whole, self.work)
        newest = [f"checkpoints/step-{max(STEPS)}/state.safetensors"]
        assert all((self.whole / name).read_bytes() == (self.work / name).read_bytes() for name in newest)


def foreign(root, tally, number, seed):
    """Copy checkpoints of runs with another seed, data, size or learning rate into a run, which must notice."""
    options = {"seed": 7, "learning_rate": 3e-3, "weight_decay": 0.1, "train_steps": 15, "ema_decay": 0.8}
    whole = make_run(root / "own")
    for which in range(number):
        random = np.random.default_rng([seed, which, 1])
        name = list(options)[random.integers(len(options))]
        if not (root / name).exists():
            make_run(root / name, **{name: options[name]})
        steps = sorted(int(path.name[5:]) for path in (root / name / "checkpoints").iterdir())
        # As many updates as the run has, or more: an older one is not looked at.
        step = steps[-1]
        work = unfinished(whole, root / "mixed")
        shutil.rmtree(work / f"checkpoints/step-{step}", ignore_errors=True)
        shutil.copytree(root / name / f"checkpoints/step-{step}", work / f"checkpoints/step-{step}")
        tally.judge("another run", f"{name} step-{step}", lambda work=work, name=name: _refused(work, name))


def _refused(work, name):
    before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    error = None
    try:
        train(config_of(work), resume=True, dataset=point_data(8))
    except RLTransformerError as caught:
        error = caught
    assert error is not None, "the run went on from the checkpoint of another run"
    assert f"training.{name} was" in error.problem
    assert error.fix
    assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == before
    return "refused"


def attack(root, number, seed, only):
    """Damage checkpoints ``number`` times; return the counts of each kind of damage and what went wrong."""
    tally = Tally()
    with without_waiting(), silenced():
        damaged = Damaged(root)
        foreign(root, tally, max(1, number // 300), seed)
        for which in range(number - tally.parts["another run"]["cases"]):
            done = damaged.damage(np.random.default_rng([seed, which]))
            if done and not tally.is_enough:
                is_resumed = which % RESUMED_EVERY == 0
                what = f"{which}: {[what for _, what in done]}"
                tally.judge(done[0][0], what, lambda r=is_resumed: damaged.judge(resumed=r))
    tally.report("bytes")
    return tally.parts, tally.wrong
