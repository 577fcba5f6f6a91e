"""Plants every kind of defect into clean episodes and tables, in every format that can hold it, and looks whether it is found at its place."""

import itertools
import os
import shutil

import numpy as np

from rl_transformer.trajectories.open import read_trajectories
from tests.misfortune.forked import forked_readers
from tests.misfortune.tally import Tally, silenced, without_waiting
from tests.trajectories.generated_sets import CLEAN, dataset
from tests.trajectories.planted_defects import (
    CONTINUOUS,
    DISCRETE,
    TABLES,
    clean_episodes,
    table_of,
    write,
    write_table,
)

PLANTS = {name: (*plant, False) for name, plant in CONTINUOUS.items()}
PLANTS |= {name: (*plant, True) for name, plant in DISCRETE.items()}
TRUE_WARNINGS = ("duplicate episode", "equal returns")
"""What may be said of clean sets on a grid: episodes and returns are equal to others there."""


def is_found(name, form, seed, folder):
    """Plant a defect into episodes of a seed, write and read them, and look for it at its place."""
    kind, field, plant, _, discrete = PLANTS[name]
    episodes = clean_episodes(seed, discrete=discrete)
    at = plant(episodes, np.random.default_rng(seed + 50))
    data = write(episodes, form, folder, discrete=discrete)
    data = data if form == "arrays" else read_trajectories(data)
    found = [f for f in data.findings if f.kind == kind and field in (None, f.field)]
    places = [place for f in found for place in f.positions]
    return bool(found) and (not at or any(at.items() <= place.items() for place in places))


def is_row_found(name, form, seed, folder):
    """Plant a defect into a row of a table, and look for the row among those that were left out, with its reason."""
    why, plant = TABLES[name]
    table = table_of(seed)
    row = plant(table, np.random.default_rng(seed + 50))
    notes = [f for f in read_trajectories(write_table(table, form, folder)).findings if f.kind == "rows in no episode"]
    return [{"row": row}] == [p for f in notes for p in f.positions] and f"1 {why} (first: row {row})" in notes[
        0
    ].problem


def unexpected_findings(name, seed):
    """Return the errors and warnings about a clean set that are not true of it."""
    found = [f for f in dataset(CLEAN[name](seed)).findings if f.level != "info" and f.kind != "guessed space"]
    is_grid = name.startswith("grid")
    return [f"{f.level}: {f.kind}" for f in found if f.level == "error" or not (is_grid and f.kind in TRUE_WARNINGS)]


def every_try():
    """Return (function, name of the defect, format) of all that can be planted in all formats that can hold it."""
    tries = [(is_found, name, form) for name, plant in PLANTS.items() for form in plant[3]]
    return tries + [(is_row_found, name, form) for name in TABLES for form in ("parquet", "csv")]


def attack(root, number, seed, only):
    """Plant ``number`` defects, a seed after the other, and look at a twentieth of that in clean sets; return the counts."""
    tally = Tally()
    os.environ["MINARI_DATASETS_PATH"] = str(root / "minari")
    with without_waiting(), silenced(), forked_readers():
        tries = ((seed + number, *it) for number in itertools.count() for it in every_try())
        for which, (own_seed, look, name, form) in enumerate(itertools.islice(tries, number)):
            folder = root / str(which)
            folder.mkdir()
            tally.judge(
                form,
                f"{name}, seed {own_seed}",
                lambda n=name, f=form, s=own_seed, d=folder, k=look: _planted(k, n, f, s, d),
            )
            shutil.rmtree(folder)
            shutil.rmtree(root / "minari", ignore_errors=True)
        sets = ((seed + number, name) for number in itertools.count() for name in CLEAN)
        for own_seed, name in itertools.islice(sets, number // 20):
            tally.judge("clean sets", f"{name}, seed {own_seed}", lambda n=name, s=own_seed: _clean(n, s))
    return tally.parts, tally.wrong


def _planted(look, name, form, seed, folder):
    assert look(name, form, seed, folder), "missed"
    return "found"


def _clean(name, seed):
    found = unexpected_findings(name, seed)
    assert not found, found
    return "clean"
