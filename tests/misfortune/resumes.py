"""Cuts runs off after every one of their updates and resumes them: each must end as the run that nobody interrupted."""

import json
import shutil

from rl_transformer import train
from tests.misfortune.tally import Tally, silenced, without_waiting
from tests.toys import POINT, camera_data, point_data, tiny_config, toll_data
from tests.training.runs import assert_equal_runs, cut_after

STEPS = 40
SMALL = {"model": {"hidden_size": 8, "n_layer": 1}, "windows": {"context_length": 3}}
KINDS = {
    "decision transformer": (point_data, {}),
    "behavior cloning": (point_data, {"model": {"arch": "behavior_cloning"}}),
    "gaussian": (point_data, {"model": {"action_head": "gaussian"}, "training": {"entropy_weight": 0.1, "decay": "matrices"}}),
    "two conditions": (toll_data, {"model": {"conditions": ["return_to_go", "cost_to_go"]}}),
    "expected returns": (point_data, {"returns": {"label": "expected", "bins": 5, "folds": 2}}),
    "images": (camera_data, {"training": {"image_shift": 2}}),
}  # fmt: skip
"""Data and options by name; the runs of the fifth have a run inside, of the model that labels their data."""


def configurations():
    """Return (data, options) of every kind in both precisions, plainly and with an average, a schedule and evaluations."""
    found = {}
    for kind, (make_data, options) in KINDS.items():
        data = make_data(8)
        for precision in ("float32", "bfloat16"):
            for is_evaluated in (False, True):
                training = {"precision": precision, "batch_size": 4, "train_steps": STEPS, "warmup_steps": 5}
                extra = {}
                if is_evaluated:
                    training |= {"ema_decay": 0.9, "schedule": "cosine"}
                    extra = {"dataset": {"validation_fraction": 0.25}, "evaluation": {"every": 16}}
                    if make_data is point_data:
                        extra["evaluation"] |= {"env_id": POINT, "num_episodes": 1}
                sections = merged(SMALL, options, {"training": training}, extra)
                found[f"{kind}, {precision}{', evaluated' if is_evaluated else ''}"] = (data, sections)
    return found


def merged(*parts):
    """Return the options of several dicts of sections."""
    sections = {}
    for part in parts:
        for section, values in part.items():
            sections[section] = {**sections.get(section, {}), **values}
    return sections


def run(folder, data, sections, *, every, resume=False):
    config = tiny_config(folder, **merged(sections, {"training": {"checkpoint_every": every, "keep_checkpoints": 99}}))
    return train(config, dataset=data, resume=resume)


def resume_after(whole, folder, step, data, sections):
    """Check that a run which was cut off after an update ends as the whole one, with the same state for further updates."""
    if "expected" in json.dumps(sections) and step % 2:
        # Killed while the first of its models was fitted: nothing after that exists.
        shutil.copytree(
            whole, folder, ignore=shutil.ignore_patterns("policy", "finished.json", "checkpoints", "return_model")
        )
        cut_after(whole / "return_model", folder / "return_model", step, folders=("fold-*",))
        for name in ("metrics.jsonl", "timing.jsonl"):
            (folder / name).unlink()
    else:
        cut_after(whole, folder, step)
    run(folder, data, sections, every=STEPS, resume=True)
    assert_equal_runs(whole, folder)
    for name in ("state.safetensors", "state.json"):
        stored = [(place / f"checkpoints/step-{STEPS}" / name).read_bytes() for place in (whole, folder)]
        assert stored[0] == stored[1], f"{name} of the last checkpoint differs"
    shutil.rmtree(folder)
    return "equal"


def attack(root, number, seed, only):
    """Resume runs of every configuration after each of their updates, or after a random part of them if ``number`` is less."""
    tally = Tally()
    chosen = {name: it for name, it in configurations().items() if not only or name in only}
    of_each = min(STEPS - 1, max(1, number // len(chosen)))
    for name, (data, sections) in chosen.items():
        with without_waiting(), silenced():
            whole = run(root / "whole", data, sections, every=1)
            for which in range(of_each):
                step = 1 + which if of_each == STEPS - 1 else 1 + (which * 17 + seed) % (STEPS - 1)
                tally.judge(name, f"step {step}", lambda s=step: resume_after(whole, root / "cut", s, data, sections))  # noqa: B023
                shutil.rmtree(root / "cut", ignore_errors=True)
            shutil.rmtree(whole)
        tally.report(name)
    return tally.parts, tally.wrong
