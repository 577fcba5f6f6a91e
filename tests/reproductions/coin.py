"""An experiment that measures its own seed: what the tests of `reproduce` run."""

from typing import ClassVar

from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.experiment import Check, Experiment, Row, Setup, Summary, values_of
from rl_transformer.reproductions.reproduction import reproduce


class Coin(Experiment):
    """Measures its own seed; is interrupted at the given seeds."""

    name = "coin"
    title = "Coin"
    question = "Is the mean of the seeds above the rule?"
    rules: ClassVar = {"high": "the mean is 1 or more", "known": "the mean is a number"}
    differs = ("Everything.",)
    unknown = ("Nothing.",)
    measured: ClassVar[list] = []
    interrupted_at: ClassVar[set] = set()

    def recipe(self, setup):
        return {"size": 1}

    def cells(self, setup):
        return [{"arm": "a", "seed": seed} for seed in range(setup.seeds)]

    def measure(self, cell, setup):
        if cell["seed"] in self.interrupted_at:
            raise KeyboardInterrupt
        self.measured.append(cell["seed"])
        return {"score": float(cell["seed"])}

    def summarize(self, measured, setup):
        score = over_seeds(values_of(measured, "score"))
        return Summary(
            [Row("seed", score, "1 [C]")],
            {"high": Check(score["mean"] >= 1, f"{score['mean']:.1f}"), "known": Check(True, "it is")},
        )

    def draw(self, measured, summary, axes):
        axes.plot(values_of(measured, "score"))


def run_coin(experiment, folder, seeds=5, *, quick=False):
    setup = Setup(quick=quick, seeds=seeds, output=folder)
    return reproduce(experiment, setup, jobs=1, command="rlt reproduce coin")
