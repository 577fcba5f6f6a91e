"""Write a log of patients, as a hospital might have it, from the model in the package icu-sepsis.

    python examples/icu_sepsis_log.py icu_sepsis/envs/assets sepsis.parquet [--patients 3000]

A row is four hours of a patient: 47 numbers that stand for the state, the doses of fluids and vasopressors that
clinicians chose (0 to 4 each, together one action, because which dose is admissible depends on the other), which
pairs are admissible in that state, the probability with which this one was chosen, and at the end whether the patient
survived. States and outcomes are drawn from the tables of Choudhary et al. (2024, https://arxiv.org/abs/2406.05646),
doses from the clinicians' ones that are admissible. The package itself is not imported.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DEATH, SURVIVAL = 713, 714


def patients(model, admissible, count, random):
    """Yield one row after the other, with the patient's number first."""
    for patient in range(count):
        state = random.choice(716, p=model["d_0"])
        step = 0
        while state < DEATH:
            chances = model["expert_policy"][state] * admissible[state]
            chances /= chances.sum()
            action = random.choice(25, p=chances)
            after = random.choice(716, p=model["tx_mat"][state, action])
            yield patient, step, state, action, chances[action], admissible[state], after
            state, step = after, step + 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assets", type=Path)
    parser.add_argument("output")
    parser.add_argument("--patients", type=int, default=3000)
    arguments = parser.parse_args()
    with np.load(arguments.assets / "dynamics.npz") as file:
        model = dict(file)
    # The first line of the file counts; each of the others has the admissible pairs of a state.
    admissible = np.zeros((716, 25), bool)
    lines = (arguments.assets / "admissible_actions.txt").read_text().splitlines()[1:717]
    for state, line in enumerate(lines):
        admissible[state, [int(pair) for pair in line.split()]] = True
    rows = patients(model, admissible, arguments.patients, np.random.default_rng(0))
    patient, step, state, action, chance, allowed, after = map(np.array, zip(*rows, strict=True))
    pairs = np.array([f"{fluids}+{vasopressors}" for fluids in range(5) for vasopressors in range(5)])
    columns = {"patient": patient, "hour": 4 * step, "dose": pairs[action], "propensity": chance}
    columns |= {f"sign_{i}": model["state_cluster_centers"][state, i] for i in range(47)}
    columns |= {f"admissible_{pair}": allowed[:, i] for i, pair in enumerate(pairs)}
    columns |= {"survived": (after == SURVIVAL).astype(float), "over": after >= DEATH}
    pq.write_table(pa.table(columns), arguments.output)


if __name__ == "__main__":
    main()
