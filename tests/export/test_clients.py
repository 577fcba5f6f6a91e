"""Claims about what is exported: without tracing a file, every kind of policy acts as its session."""

import numpy as np
import pytest
import torch

from rl_transformer.errors import RLTransformerError
from rl_transformer.export import golden as golden_module
from rl_transformer.export import rules
from rl_transformer.export.golden import golden_steps
from rl_transformer.export.graph import StepModule, WindowModule
from rl_transformer.export.interface import step_ports, window_ports
from rl_transformer.export.reference.golden import replay
from rl_transformer.export.reference.session import Session
from tests.policy.kinds import ALL_KINDS, Episode

REFUSED = ("gaussian sample", "box of integers, gaussian sample")


class Untraced:
    """An exported policy whose network runs in PyTorch: the client and the modules, without the file between them."""

    def __init__(self, policy, module, ports):
        self.rules = rules.describe(policy)
        self.rules["golden"] = {"is_flat": policy.spec.data.observation_space.kind != "box"}
        inputs, outputs = ports(policy)
        self.file = {"inputs": [port.to_dict() for port in inputs], "outputs": [port.to_dict() for port in outputs]}
        self.module = module(policy).eval()
        self.model = self

    def session(self, target_return=None, seed=0, targets=None):
        return Session(self, target_return, seed, targets or {})

    @torch.inference_mode()
    def run(self, names, feed):
        for port in self.file["inputs"]:
            given = feed[port["name"]]
            assert str(given.dtype) == port["dtype"], port
            sizes = zip(given.shape, port["shape"], strict=True)
            assert all(isinstance(size, str) or size == have for have, size in sizes), port
        found = self.module(**{name: torch.from_numpy(value) for name, value in feed.items()})
        assert [str(value.dtype).removeprefix("torch.") for value in found] == [
            p["dtype"] for p in self.file["outputs"]
        ]
        assert [value.shape[1:] for value in found] == [tuple(p["shape"][1:]) for p in self.file["outputs"]]
        return [value.numpy() for value in found]


@pytest.fixture
def fewer_steps(monkeypatch):
    """Let 28 steps of two episodes be recorded, not 64, since the windows of these policies are full after a few."""
    monkeypatch.setattr(golden_module, "NUM_STEPS", 28)
    monkeypatch.setattr(golden_module, "_FIRST_EPISODE", 20)


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind not in REFUSED])
def test_a_client_acts_as_the_session_in_every_kind_of_policy(kind, fewer_steps):
    policy = Episode(kind).policy
    assert rules.describe(policy)["window_length"] < 20
    golden = golden_steps(policy, seed=1)
    assert golden["is_first"].tolist() == [step in (0, 20) for step in range(28)]
    tolerance = rules.action_tolerance(policy)
    forms = [(WindowModule, window_ports)]
    if policy.spec.model.attention_span is not None:
        forms.append((StepModule, step_ports))
    for module, ports in forms:
        actions = replay(Untraced(policy, module, ports), golden)
        assert actions.dtype == golden["actions"].dtype
        np.testing.assert_allclose(actions, golden["actions"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", REFUSED)
def test_samples_of_a_gaussian_are_refused_with_a_fix(kind):
    with pytest.raises(RLTransformerError, match="--action-selection greedy"):
        rules.check_exportable(Episode(kind).policy)


def test_recorded_steps_fill_a_window_and_include_actions_that_were_not_the_policys():
    golden = golden_steps(Episode("published").policy, seed=0)
    assert len(golden["actions"]) == 64
    assert golden["is_first"].sum() == 2
    others = (golden["executed"] != golden["actions"]).any(axis=1)
    assert 4 <= others.sum() <= 8
    again = golden_steps(Episode("published").policy, seed=0)
    assert set(again) == set(golden)


def test_a_client_refuses_what_a_session_refuses():
    policy = Untraced(Episode("discrete").policy, WindowModule, window_ports)
    with pytest.raises(ValueError, match="takes targets of"):
        policy.session(1.0, targets={"cost_to_go": 3.0})
    session = policy.session(1.0)
    with pytest.raises(ValueError, match="not finite"):
        session.act(np.array([np.nan, 0.0]))
    with pytest.raises(ValueError, match="shape"):
        session.act(np.zeros(3))
    session.act(np.zeros(2))
    with pytest.raises(ValueError, match="observe"):
        session.act(np.zeros(2))
    with pytest.raises(ValueError, match="not finite"):
        session.observe(np.inf)
    cloning = Untraced(Episode("cloning").policy, WindowModule, window_ports)
    with pytest.raises(ValueError, match="takes targets of"):
        cloning.session(1.0)
    with pytest.raises(ValueError, match="no mask"):
        cloning.session().act(np.zeros(2), [True])


def test_windows_of_several_lengths_share_a_batch():
    policy = Episode("published").policy
    module = WindowModule(policy).eval()
    generator = torch.Generator().manual_seed(0)
    window = {
        "observations": torch.randn(1, 5, 2, generator=generator),
        "actions": torch.rand(1, 5, 1, generator=generator),
        "conditions": torch.randn(1, 5, 1, generator=generator),
        "timesteps": torch.arange(5)[None],
    }
    with torch.inference_mode():
        batch = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in window.items()}
        together = module(**batch, lengths=torch.tensor([5, 3]))[0]
        alone = module(**{name: value[:, :3] for name, value in window.items()}, lengths=torch.tensor([3]))[0]
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-6)
    assert (together[0] - together[1]).abs() > 1e-4
