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
    ("length mismatch", "observations, actions", "episode", "A different number of rows from rewards.", _DROP),
    (
        "length mismatch",
        "further columns",
        "episode",
        "A different number of rows from rewards.",
        "leaves the column out",
    ),
    ("not finite", "observations", FEATURE, "NaN or infinite.", _DROP),
    ("not finite", "actions", FEATURE, "NaN or infinite.", _DROP),
    ("not finite", "rewards", STEP, "NaN or infinite.", _DROP),
    ("action outside the space", "actions", FEATURE, "A continuous action beyond its bounds.", _DROP),
    (
        "action off the space",
        "actions",
        STEP,
        "A discrete action that is not in the space, or not a whole number.",
        _DROP,
    ),
    ("illegal action", "actions", STEP, "An action that the mask of its step forbids.", _DROP),
    ("overflow", "rewards", "episode", "Rewards whose sum float32 cannot hold.", _DROP),
    (
        "end inside of an episode",
        "further columns",
        "episode, step",
        "A flag of an end or a beginning, set inside an episode.",
        "cuts the episode there and recomputes the returns",
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
        "drops them if they are at most a fifth of all episodes; otherwise left",
    ),
    (
        "consecutive ends",
        "terminated, truncated",
        "whole data",
        "An end flag that stays set after the end.",
        "drops the one-step episodes",
    ),
    ("padding", "episode", STEP, "Steps at the end of an episode in which every value is 0.", "cuts them off"),
    (
        "repeated final observation",
        "final observations",
        "episode",
        "A copy of the last observation that was acted on.",
        "leaves final observations out",
    ),
    ("all zeros", "observations", STEP, "A step in which every number is 0.", _LEFT),
    ("repeated step", "step", STEP, "The same observation, action and reward as the step before.", _LEFT),
    ("missing code", "observations", FEATURE, "A number, such as -999, that probably encodes a missing value.", _LEFT),
    ("outlier", "observations, actions, rewards", FEATURE, "A value far beyond 99 % of the others.", _LEFT),
    ("frozen signal", "observations", "episode, feature", "Constant in some episodes, but not in others.", _LEFT),
    (
        "saturated signal",
        "observations",
        "feature",
        "At its smallest or largest value in at least half of the steps.",
        _LEFT,
    ),
    ("unit change", "observations", "episode, feature", "Many times larger or smaller than in other episodes.", _LEFT),
    ("constant feature", "observations", "feature", "Never changes.", _NOTE),
    ("equal features", "observations", "feature", "The same as another feature at every step.", _NOTE),
    ("precision", "observations, actions", "feature", "Differences too small for float32.", _LEFT),
    ("flattened picture", "observations", "whole data", "An image that is treated as a vector.", _CHOICE),
    ("tiny actions", "actions", "feature", "Use less than 1 % of the range between their bounds.", _CHOICE),
    ("constant action", "actions", "feature", "Never changes.", _LEFT),
    ("guessed space", "actions", "whole data", "The space was not given.", _CHOICE),
    ("clipped actions", "actions", "whole data", "Actions that were clipped because an option says so.", _NOTE),
    ("no rewards", "rewards", "whole data", "All rewards are 0.", _CHOICE),
    ("equal returns", "rewards", "whole data", "All episodes have the same return.", _CHOICE),
    ("long episode", "episode", "whole data", "More than 50,000 steps.", _CHOICE),
    ("time goes backwards", "further columns", STEP, "A time earlier than that of the step before.", _LEFT),
    ("repeated time", "further columns", STEP, "The same time as the step before.", _LEFT),
    ("gap in time", "further columns", STEP, "A pause many times longer than the usual one.", _LEFT),
    ("missing step", "further columns", STEP, "A counter that skips numbers.", _LEFT),
    ("steps do not follow", "next observations", STEP, "Differs from the observation of the next step.", _LEFT),
    ("no timeouts", "terminals", "whole data", "No record of which episodes a time limit ended.", _LEFT),
    (
        "several rows of one moment",
        "rows of a table",
        "whole data",
        "Rows with the same episode and time, kept in the order of the file.",
        _LEFT,
    ),
    (
        "rows in no episode",
        "rows of a table",
        "row",
        "A row that could not be used, for the reason given.",
        "drops the row",
    ),
    (
        "action among the observations",
        "observations",
        "feature",
        "A copy or running total of this step's action.",
        _CHOICE,
    ),
    (
        "reward among the observations",
        "observations",
        "feature",
        "A copy or running total of this step's reward.",
        _CHOICE,
    ),
    ("observation after the action", "observations", "feature", "Recorded after the action of its step.", _LEFT),
    (
        "outcome among the observations",
        "observations",
        "feature",
        "Reveals the return, the length or the end of its episode.",
        _CHOICE,
    ),
    ("end among the observations", "observations", "feature", "A flag of the episode's last step.", _CHOICE),
    ("overlapping episodes", "episode", STEP, "Begins with steps that also lie inside another episode.", _SPLIT),
]
_INFOS = [
    ("both ends", "episode", "episode", "Both terminated and truncated; counts as terminated.", _NOTE),
    ("ambiguous picture", "observations", "whole data", "Channels may be first or last.", _CHOICE),
    ("guessed space", "observations", "whole data", "Integers that are treated as numeric values.", _CHOICE),
    ("guessed actions", "actions", "whole data", "The number of actions of a replay buffer.", _CHOICE),
    ("unused action", "actions", "action", "Never taken in the data.", _NOTE),
    (
        "time limit as an end",
        "terminated",
        "whole data",
        "Many terminated episodes share the largest length.",
        _LEFT,
    ),
    ("unfinished tail", "rewards", "whole data", "Steps after the last flag, left out.", _NOTE),
    ("left_out", "episode", "whole data", "Content of the format other than episodes, left out.", _NOTE),
    (CURED, "any", "episode", "What an earlier --fix did.", _NOTE),
    ("leakage not checked", "observations", "whole data", "Why leakage could not be checked.", _NOTE),
    ("not compared", "any", "whole data", "Why some comparison of two data sets was not possible.", _NOTE),
]
# Found by comparing two data sets: rlt inspect TRAIN --against TEST.
_BETWEEN = [
    (
        "error",
        "shared episodes",
        "episode",
        "episode",
        "In both data sets; a warning where chance may explain it, as in episodes of fewer than four steps.",
    ),
    ("error", "shared steps", "step", STEP, "Runs of steps that are in both data sets."),
    ("error", "shared entities", "a further column", "episode", "An entity with episodes in both data sets."),
    ("error", "overlapping times", "a further column", "episode", "Begins before the training data ends."),
    ("warning", "observation drift", "observations", "whole data", "Observations reveal which data set they are from."),
    (
        "warning",
        "behavior drift",
        "actions",
        "whole data",
        "Actions, given their observations, reveal which data set they are from.",
    ),
    ("warning", "return drift", "returns", "whole data", "The distributions of returns differ."),
    ("warning", "reward drift", "rewards", "whole data", "The distributions of mean rewards per step differ."),
]

READER_KINDS = (
    "guessed space",
    "guessed actions",
    "clipped actions",
    "no timeouts",
    "rows in no episode",
    "several rows of one moment",
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
        "What the data checks report: `rlt inspect DATA` names each finding with its first places, its count, and a",
        "fix. Training refuses data with errors. Written by `rlt inspect --kinds`.",
        "",
        "| kind | level | in | place | what it is | `--fix` |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {k.kind} | {k.levels} | {k.fields} | {k.place} | {k.meaning} | {k.cure} |" for k in finding_kinds()]
    return "\n".join(lines) + "\n"
