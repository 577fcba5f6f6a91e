"""All kinds of findings: what each says, where, how severe it is, and what `rlt inspect --fix` does about it."""

from __future__ import annotations

from dataclasses import dataclass

CURED = "cured"
"""Kind of the findings that a cured store keeps about what was done to it."""

STEP = "episode, step"
FEATURE = "episode, step, feature"


@dataclass(frozen=True)
class FindingKind:
    """Describes one kind of finding."""

    kind: str
    levels: str
    fields: str
    place: str
    meaning: str
    cure: str
    """What ``--fix`` does."""


_DROP = "drops the episode"
_LEFT = "left: only the source can tell the right value"
_CHOICE = "left: a choice of yours"
_NOTE = "left: worth knowing"
_SPLIT = "left: split the data in another way"

# Errors: training refuses the data.
_ERRORS = [
    ("empty episode", "rewards", "episode", "An episode without a step.", _DROP),
    ("wrong shape or value", "rewards", "episode", "Not one reward per step.", _DROP),
    ("wrong shape or value", "observations", "episode", "Observations that do not fit their space.", _DROP),
    ("wrong shape or value", "actions", "episode", "Actions that do not fit their space.", _DROP),
    ("not numbers", "observations, actions, rewards", "episode", "Text or objects.", _DROP),
    ("not numbers", "further columns", "episode", "Text or objects.", "leaves the column out"),
    ("length mismatch", "observations, actions", "episode", "Another number of rows than rewards.", _DROP),
    ("length mismatch", "further columns", "episode", "Another number of rows.", "leaves the column out"),
    ("not finite", "observations", FEATURE, "NaN or infinite.", _DROP),
    ("not finite", "actions", FEATURE, "NaN or infinite.", _DROP),
    ("not finite", "rewards", STEP, "NaN or infinite.", _DROP),
    ("action outside the space", "actions", FEATURE, "A continuous action beyond its bounds.", _DROP),
    ("action off the space", "actions", STEP, "A discrete action that the space has not, or no whole number.", _DROP),
    ("illegal action", "actions", STEP, "An action that the mask of its step forbids.", _DROP),
    ("overflow", "rewards", "episode", "Rewards whose sum float32 cannot hold.", _DROP),
    (
        "end inside of an episode",
        "further columns",
        "episode, step",
        "A flag of ends or beginnings that is set inside of an episode.",
        "cuts the episode there and computes the returns anew",
    ),
]
# Warnings: training goes on, and the result may not be what was meant.
_WARNINGS = [
    ("not finite", "final observations", FEATURE, "NaN or infinite.", "leaves final observations out"),
    ("not finite", "further columns", FEATURE, "NaN or infinite.", _LEFT),
    ("duplicate episode", "episode", "episode", "The same content as an earlier episode.", "drops the copies"),
    (
        "unfinished episode",
        "episode",
        "episode",
        "Neither terminated nor truncated.",
        "drops them if they are at most a fifth of all; otherwise left",
    ),
    ("consecutive ends", "terminated, truncated", "whole data", "A flag that stays set.", "drops the single steps"),
    ("padding", "episode", STEP, "Steps at the end in which everything is 0.", "cuts them off"),
    (
        "repeated final observation",
        "final observations",
        "episode",
        "A copy of the last observation acted on.",
        "leaves final observations out",
    ),
    ("all zeros", "observations", STEP, "A step in which every number is 0.", _LEFT),
    ("repeated step", "step", STEP, "The same observation, action and reward as the step before.", _LEFT),
    ("missing code", "observations", FEATURE, "A number such as -999 that stands for a missing value.", _LEFT),
    ("outlier", "observations, actions, rewards", FEATURE, "A value far beyond 99 % of the others.", _LEFT),
    ("frozen signal", "observations", "episode, feature", "Never changes in some episodes only.", _LEFT),
    ("saturated signal", "observations", "feature", "Exactly at one bound in half of the steps.", _LEFT),
    ("unit change", "observations", "episode, feature", "Many times larger or smaller than in other episodes.", _LEFT),
    ("constant feature", "observations", "feature", "Never changes.", _NOTE),
    ("equal features", "observations", "feature", "The same as another feature at every step.", _NOTE),
    ("precision", "observations, actions", "feature", "Differences that float32 rounds away.", _LEFT),
    ("flattened picture", "observations", "whole data", "A picture that is taken as a vector.", _CHOICE),
    ("tiny actions", "actions", "feature", "Use less than 1 % of their bounds.", _CHOICE),
    ("constant action", "actions", "feature", "Never changes.", _LEFT),
    ("guessed space", "actions", "whole data", "The space was not given.", _CHOICE),
    ("clipped actions", "actions", "whole data", "Actions that were clipped as asked for.", _NOTE),
    ("no rewards", "rewards", "whole data", "All rewards are 0.", _CHOICE),
    ("equal returns", "rewards", "whole data", "All episodes have the same return.", _CHOICE),
    ("long episode", "episode", "whole data", "More than 50,000 steps.", _CHOICE),
    ("time goes backwards", "further columns", STEP, "A time that is smaller than at the step before.", _LEFT),
    ("repeated time", "further columns", STEP, "The time of the step before.", _LEFT),
    ("gap in time", "further columns", STEP, "A pause many times longer than the usual one.", _LEFT),
    ("missing step", "further columns", STEP, "A counter that skips numbers.", _LEFT),
    ("steps do not follow", "next observations", STEP, "Not the observation of the next step.", _LEFT),
    ("no timeouts", "terminals", "whole data", "Nothing says which episodes a time limit ended.", _LEFT),
    ("rows in no episode", "rows of a table", "row", "A row that could not be used, with the reason.", "drops the row"),
    ("action among the observations", "observations", "feature", "A copy or a total of this step's action.", _CHOICE),
    ("reward among the observations", "observations", "feature", "A copy or a total of this step's reward.", _CHOICE),
    ("observation after the action", "observations", "feature", "Recorded after the action of its step.", _LEFT),
    ("outcome among the observations", "observations", "feature", "Knows return, length or end.", _CHOICE),
    ("end among the observations", "observations", "feature", "The flag of the last step.", _CHOICE),
    ("overlapping episodes", "episode", STEP, "Begins inside of another episode.", _SPLIT),
]
_INFOS = [
    ("both ends", "episode", "episode", "Terminated and truncated; it counts as terminated.", _NOTE),
    ("ambiguous picture", "observations", "whole data", "Channels may be first or last.", _CHOICE),
    ("guessed space", "observations", "whole data", "Integers that are taken as numbers.", _CHOICE),
    ("guessed actions", "actions", "whole data", "The number of actions of a replay buffer.", _CHOICE),
    ("unused action", "actions", "action", "Was never taken.", _NOTE),
    (
        "time limit as an end",
        "terminated",
        "whole data",
        "Many terminated episodes of one, the largest, length.",
        _LEFT,
    ),
    ("unfinished tail", "rewards", "whole data", "Steps after the last flag, left out.", _NOTE),
    ("left_out", "episode", "whole data", "What a format holds beside episodes, left out.", _NOTE),
    (CURED, "any", "episode", "What an earlier --fix did.", _NOTE),
    ("leakage not checked", "observations", "whole data", "Why leakage could not be looked at.", _NOTE),
    ("not compared", "any", "whole data", "Why two data sets could not be compared in some way.", _NOTE),
]
# Found by comparing two data sets: rlt inspect TRAIN --against TEST.
_BETWEEN = [
    ("error", "shared episodes", "episode", "episode", "Lies in both; a warning where observations have few values."),
    ("error", "shared steps", "step", STEP, "Runs of steps that lie in both."),
    ("error", "shared entities", "a further column", "episode", "Somebody whose episodes lie in both."),
    ("error", "overlapping times", "a further column", "episode", "Begins before the data to learn from ends."),
    ("warning", "observation drift", "observations", "whole data", "Observations tell which part they are of."),
    ("warning", "behavior drift", "actions", "whole data", "So do actions, given their observations."),
    ("warning", "return drift", "returns", "whole data", "Returns differ."),
    ("warning", "reward drift", "rewards", "whole data", "Mean rewards differ."),
]

READER_KINDS = (
    "guessed space",
    "guessed actions",
    "clipped actions",
    "no timeouts",
    "rows in no episode",
    "unfinished tail",
    "left_out",
    CURED,
)
"""Kinds that come from how data was read and written, and cannot be found again in the episodes."""


def finding_kinds() -> list[FindingKind]:
    """Return all kinds, most severe first."""
    listed = [("error", kind) for kind in _ERRORS] + [("warning", kind) for kind in _WARNINGS]
    listed += [("info", kind) for kind in _INFOS]
    kinds = [FindingKind(kind[0], level, *kind[1:]) for level, kind in listed]
    between = [FindingKind(kind, level, fields, place, text, _SPLIT) for level, kind, fields, place, text in _BETWEEN]
    return [*kinds, *between]


def findings_page() -> str:
    """Return the reference page of all kinds, as Markdown."""
    lines = [
        "# Findings",
        "",
        "What the checks of data report: `rlt inspect DATA` names each with its first places, how often it occurs, and a",
        "fix. Errors are refused by training. Written by `rlt inspect --kinds`.",
        "",
        "| kind | level | in | place | what it is | `--fix` |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {k.kind} | {k.levels} | {k.fields} | {k.place} | {k.meaning} | {k.cure} |" for k in finding_kinds()]
    return "\n".join(lines) + "\n"
