"""What a batch remembers of each of its sessions beside the model's inputs, and where it is.

Shapes: S rows, R sessions, W width of a condition, M length of a legal-action mask, D features of an observation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from rl_transformer.conditions.interface import value_after
from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.predictor import Predictor
from rl_transformer.policy.session_state import STORED_COLUMNS, SessionState, Start, history_steps
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.policy.validation import RUNS_AWAY, check_late, check_rows, growth_note
from rl_transformer.runtime import log
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Bool, Float64, Int, Int64, Shaped

_NO_SLOT = -1
Outcomes = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Values by the name of the outcome, and where each was reported."""


class SessionRows:
    """The rows of a batch. A row is a few numbers; the large memory of a session is in a slot of the predictor."""

    def __init__(self, spec: PolicySpec, predictor: Predictor) -> None:
        self._spec = spec
        self._predictor = predictor
        self.is_open: Bool[np.ndarray, "S"] = np.zeros(0, dtype=bool)
        self.slots: Int[np.ndarray, "S"] = np.zeros(0, dtype=np.int64)
        self.step: Int[np.ndarray, "S"] = np.zeros(0, dtype=np.int64)
        self.awaits_outcome: Bool[np.ndarray, "S"] = np.zeros(0, dtype=bool)
        # In float64: thousands of rewards are subtracted one after the other, and rounding errors would add up.
        self.conditions: dict[str, Float64[np.ndarray, "S W"]] = {
            condition.name: np.zeros((0, condition.width)) for condition in spec.conditions
        }
        self.further_outcomes = {condition.outcome for condition in spec.conditions} - {"reward"}
        # Outcomes that were observed as None and may still be reported, by name.
        names = ["reward", *sorted(self.further_outcomes)]
        self.missing: dict[str, Int[np.ndarray, "S"]] = {name: np.zeros(0, dtype=np.int64) for name in names}
        # The advised target of these sessions is chosen at their first observation.
        self.awaits_target: Bool[np.ndarray, "S"] = np.zeros(0, dtype=bool)
        self.allowed: list[np.ndarray | None] = []
        self._seeds: list[int] = []
        self._draws: list[int] = []
        self._random: list[np.random.Generator | None] = []
        self._has_noted = False

    def check(self, rows: Sequence[int] | np.ndarray) -> Int64[np.ndarray, "R"]:
        """Return rows of live sessions as an array, or raise an error."""
        return check_rows(rows, self.is_open)

    def open(self, count: int) -> list[int]:
        """Return ``count`` rows for new sessions, the smallest free ones, each with a slot."""
        free = np.flatnonzero(~self.is_open)
        if len(free) < count:
            self._lengthen(len(self.is_open) + count - len(free))
            free = np.flatnonzero(~self.is_open)
        rows = free[:count]
        used = self.slots[self.is_open]
        needed = len(used) + count
        if needed > self._predictor.slots:
            # Doubled, so that adding one session after the other copies each of them a few times only. A batch that is
            # made at once gets exactly what it needs.
            self._move(needed if not len(used) else max(needed, 2 * self._predictor.slots))
        taken = np.zeros(self._predictor.slots, dtype=bool)
        taken[self.slots[self.is_open]] = True
        self.slots[rows] = np.flatnonzero(~taken)[:count]
        self.is_open[rows] = True
        return rows.tolist()

    def close(self, rows: Int64[np.ndarray, "R"]) -> None:
        """Free rows and their slots, and the memory when three quarters of it are free."""
        self.is_open[rows] = False
        self.slots[rows] = _NO_SLOT
        for row in rows.tolist():
            self.allowed[row] = None
            self._random[row] = None
        live = int(self.is_open.sum())
        if self._predictor.slots > max(4 * live, 1):
            self._move(2 * live)

    def _move(self, slots: int) -> None:
        """Give the predictor another number of slots, of which the live sessions get the first ones."""
        live = np.flatnonzero(self.is_open)
        self._predictor.resize(self.slots[live], slots)
        self.slots[live] = np.arange(len(live))

    def _lengthen(self, count: int) -> None:
        """Append closed rows until there are ``count``."""
        more = count - len(self.is_open)
        self.is_open = np.append(self.is_open, np.zeros(more, dtype=bool))
        self.slots = np.append(self.slots, np.full(more, _NO_SLOT))
        self.step = np.append(self.step, np.zeros(more, dtype=np.int64))
        self.awaits_outcome = np.append(self.awaits_outcome, np.zeros(more, dtype=bool))
        self.awaits_target = np.append(self.awaits_target, np.zeros(more, dtype=bool))
        for name, values in self.conditions.items():
            self.conditions[name] = np.concatenate([values, np.zeros((more, values.shape[1]))])
        for name, counts in self.missing.items():
            self.missing[name] = np.append(counts, np.zeros(more, dtype=np.int64))
        self.allowed += [None] * more
        self._seeds += [0] * more
        self._draws += [0] * more
        self._random += [None] * more

    def begin(
        self,
        row: int,
        seed: int,
        conditions: Mapping[str, np.ndarray],
        *,
        draws: int = 0,
        awaits_target: bool = False,
    ) -> None:
        """Begin an episode in an open row."""
        self.awaits_target[row] = awaits_target
        for name, value in conditions.items():
            self.conditions[name][row] = value
        self.step[row] = 0
        self.awaits_outcome[row] = False
        self.allowed[row] = None
        for counts in self.missing.values():
            counts[row] = 0
        self._seeds[row] = seed
        self._draws[row] = draws
        self._random[row] = None
        self._predictor.forget(self.slots[row : row + 1])

    def begin_all(self, rows: Sequence[int], starts: Sequence[Start]) -> None:
        """Begin one episode in each of some open rows."""
        advice = self._spec.advice
        follows_start = advice is not None and advice.depends_on_start
        for row, start in zip(rows, starts, strict=True):
            self.begin(row, start.seed, start.conditions, awaits_target=start.is_advised and follows_start)

    def set_return_to_go(self, rows: Int64[np.ndarray, "R"], values: Sequence[float]) -> None:
        """Set the return to aim for; what was missing so far will not be subtracted."""
        self.conditions["return_to_go"][rows, 0] = values
        self.awaits_target[rows] = False
        self.missing["reward"][rows] = 0

    def draw(self, row: int, count: int) -> Float64[np.ndarray, "_"]:
        """Return the next uniform random numbers of a session."""
        random = self._random[row]
        if random is None:  # made when it is needed, because most policies draw nothing
            random = self._random[row] = generator(Stream.ACTION_SAMPLING, self._seeds[row])
            # Its state is the seed and the number of its draws, a 64-bit number for each uniform number.
            bits = random.bit_generator
            assert isinstance(bits, np.random.PCG64)
            bits.advance(self._draws[row])
        self._draws[row] += count
        return random.random(count)

    def check_idle(self, rows: Int64[np.ndarray, "R"], *, where: str, fix: str) -> None:
        """Raise an error if an action of ``rows`` awaits its outcome."""
        if self.awaits_outcome[rows].any():
            row = int(rows[self.awaits_outcome[rows]][0])
            problem = (
                f"session {row} acts twice in a row"
                if where == "act"
                else f"an action of session {row} awaits its outcome"
            )
            raise RLTransformerError(problem, where=where, fix=fix)

    def check_acted(self, rows: Int64[np.ndarray, "R"]) -> None:
        """Raise an error if one of ``rows`` has not acted since its last outcome."""
        if not self.awaits_outcome[rows].all():
            raise RLTransformerError(
                "a reward without an action",
                where="observe",
                fix="call act(observation) first, or observe_late(reward) for the reward of an earlier action",
            )

    def choose_targets(self, rows: Int64[np.ndarray, "R"], states: Float64[np.ndarray, "R D"]) -> None:
        """Fix the advised target of sessions at their first normalized observations."""
        advice = self._spec.advice
        assert advice is not None
        limits = self._spec.target_ranges["return_to_go"]
        self.conditions["return_to_go"][rows, 0] = advice.advised(states, limits)
        self.awaits_target[rows] = False

    def mark_acted(self, rows: Int64[np.ndarray, "R"], mask: Bool[Tensor, "R M"] | None) -> None:
        """Note that ``rows`` have acted, and which actions were legal."""
        self.awaits_outcome[rows] = True
        if mask is not None:
            for row, legal in zip(rows.tolist(), mask.cpu().numpy().copy(), strict=True):
                self.allowed[row] = legal

    def conditions_after(
        self, rows: Int64[np.ndarray, "R"], outcomes: Outcomes
    ) -> dict[str, Float64[np.ndarray, "R W"]]:
        """Return the conditions of ``rows`` after some outcomes; one that is not reported changes nothing.

        Raises:
            RLTransformerError: A value exceeds the range of float32.
        """
        following = {}
        for condition in self._spec.conditions:
            values, is_reported = outcomes.get(condition.outcome, (np.zeros(0), np.zeros(len(rows), dtype=bool)))
            after = self.conditions[condition.name][rows]
            if is_reported.any():
                after[is_reported] = value_after(condition, after[is_reported], values[is_reported])
            if not (np.abs(after) <= np.finfo(np.float32).max).all():
                grows = condition.name == "return_to_go" and self._spec.returns.depends_on_delay
                raise RLTransformerError(
                    f"{condition.name} exceeds the range of float32",
                    where="observe",
                    fix=f"repair the environment's {condition.outcome}{f'; {RUNS_AWAY}' if grows else ''}",
                )
            following[condition.name] = after
        return following

    def mark_observed(
        self, rows: Int64[np.ndarray, "R"], following: Mapping[str, np.ndarray], outcomes: Outcomes
    ) -> None:
        """Write conditions, count what is missing, and move ``rows`` to their next timestep."""
        for name, value in following.items():
            self.conditions[name][rows] = value
        if not self._has_noted and (note := growth_note(self._spec, following)):
            self._has_noted = True
            log.info(note)
        for name, (_, is_reported) in outcomes.items():
            self.missing[name][rows[~is_reported]] += 1
        self.step[rows] += 1
        self.awaits_outcome[rows] = False
        for row in rows.tolist():
            self.allowed[row] = None

    def charge_late(self, rows: Int64[np.ndarray, "R"], outcomes: Outcomes) -> None:
        """Charge outcomes that were missing.

        Raises:
            RLTransformerError: Nothing is reported at all, or nothing of this kind is missing in a session.
        """
        if not any(is_reported.any() for _, is_reported in outcomes.values()):
            raise RLTransformerError(
                "nothing is reported", where="observe_late", fix="pass a reward or another outcome"
            )
        if outcomes["reward"][1].any():
            check_late(self._spec)
        for name, (_, is_reported) in outcomes.items():
            late = rows[is_reported]
            if (self.missing[name][late] == 0).any():
                raise RLTransformerError(
                    f"no {name} of session {int(late[self.missing[name][late] == 0][0])} is missing",
                    where="observe_late",
                    fix=f"report the {name} of the last action with observe; each is reported once, and none from before "
                    "return_to_go was set",
                )
        for name, value in self.conditions_after(rows, outcomes).items():
            self.conditions[name][rows] = value
        for name, (_, is_reported) in outcomes.items():
            self.missing[name][rows[is_reported]] -= 1

    def read(self, row: int) -> SessionState:
        """Return everything about a session."""
        predictor = self._predictor
        acts = int(self.step[row]) + int(self.awaits_outcome[row])
        slot = int(self.slots[row])
        columns = predictor.history.read_session(slot, history_steps(acts, predictor.history.length))
        return SessionState(
            step=int(self.step[row]),
            awaits_outcome=bool(self.awaits_outcome[row]),
            awaits_target=bool(self.awaits_target[row]),
            seed=self._seeds[row],
            draws=self._draws[row],
            conditions={name: value[row].tolist() for name, value in self.conditions.items()},
            missing={name: int(counts[row]) for name, counts in self.missing.items()},
            allowed=self.allowed[row],
            history={name: columns[name] for name in STORED_COLUMNS},
            cache=None if predictor.cache is None else predictor.cache.read_session(slot, acts),
        )

    def write(self, row: int, session: SessionState) -> None:
        """Continue a session in an open row."""
        conditions = {name: np.array(values) for name, values in session.conditions.items()}
        self.begin(row, session.seed, conditions, draws=session.draws, awaits_target=session.awaits_target)
        self.step[row] = session.step
        self.awaits_outcome[row] = session.awaits_outcome
        self.allowed[row] = session.allowed
        for name, count in session.missing.items():
            self.missing[name][row] = count
        predictor = self._predictor
        slot = int(self.slots[row])
        steps = history_steps(session.acts, predictor.history.length)
        predictor.restore_history(slot, steps, session.history)
        if predictor.cache is not None and session.cache is not None:
            predictor.cache.write_session(slot, session.acts, session.cache)


def read_only(values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Return a view that cannot be written to: only the methods of a batch check what they write."""
    view = values.view()
    view.flags.writeable = False
    return view
