"""Claims about other tools around our models: copies, other processes, tracers, peft and trainers."""

import copy
import io
import json
import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from rl_transformer import DecisionTransformerModel, load_policy
from rl_transformer.models.trunk.block import Conv1D
from tests.models.small_models import VARIANTS, inputs, make
from tests.policy.kinds import ALL_KINDS, Episode
from tests.toys import point_data, untrained_policy


def through_bytes(value):
    return pickle.loads(pickle.dumps(value))


def through_torch(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


COPIES = {"pickle": through_bytes, "deepcopy": copy.deepcopy, "torch.save": through_torch}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_policies_and_live_sessions_are_copied_and_act_the_same(kind, way):
    """Reported as SB3#1460 and transformers#20327."""
    episode = Episode(kind)
    session = episode.session()
    batch = episode.policy.sessions([episode.target] * 2, [0, 1], targets=episode.targets or None)
    for t in range(6):
        episode.step(session, t)
    copied = COPIES[way](session)
    assert COPIES[way](episode.policy).content_hash == episode.policy.content_hash
    assert COPIES[way](batch).state() == batch.state()
    for t in range(6, 10):
        assert episode.step(copied, t) == episode.step(session, t)


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_new", "silu", "tanh"])
def test_models_of_every_activation_are_copied(activation):
    model = make("published", activation_function=activation)
    batch = inputs(model.config)
    for way in COPIES.values():
        torch.testing.assert_close(way(model).predict_actions(*batch), model.predict_actions(*batch))


def act_in_another_process(policy, state, pipe):
    session = policy.restore(state)
    pipe.send(np.asarray(session.act(np.zeros(2, np.float32))).tolist())


def test_a_policy_crosses_a_spawned_process():
    """Reported as transformers#36276."""
    policy = untrained_policy(point_data())
    session = policy.session(8.0)
    session.act(np.ones(2))
    session.observe(0.5)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=act_in_another_process, args=(policy, session.state(), there))
    process.start()
    assert here.poll(120)
    assert here.recv() == session.act(np.zeros(2, np.float32)).tolist()
    process.join()


# Tracers


class Actions(torch.nn.Module):
    """The entry points as a module, for torch.export."""

    def __init__(self, model, entry):
        super().__init__()
        self.model = model
        self.entry = entry

    def forward(self, states, actions, conditions, timesteps):
        if self.entry == "forward":
            mask = torch.ones_like(timesteps)
            return self.model(states, actions, None, conditions, timesteps, mask).action_preds
        at = 3 if self.entry == "one action" else None
        return self.model.predict_actions(states, actions, conditions, timesteps, at=at)


@pytest.mark.parametrize("entry", ["all actions", "one action", "forward"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_model_computes_the_same_and_the_process_acts_on(variant, entry):
    model = make(variant)
    batch = inputs(model.config)
    module = Actions(model, entry)
    before = module(*batch)
    with torch.no_grad():
        exported = torch.export.export(module, tuple(batch)).module()
    torch.testing.assert_close(exported(*batch), before, atol=1e-5, rtol=1e-4)
    assert torch.equal(module(*batch), before)


TRACERS = {
    "torch.export": lambda f, batch: torch.export.export(Actions(f, "all actions"), tuple(batch)),
    "make_fx": lambda f, batch: make_fx(
        lambda *args: f.predict_actions(*args), tracing_mode="fake", _allow_non_fake_inputs=True
    )(*batch),
    "fake tensors": lambda f, batch: fake(f, batch),
    "the meta device": lambda f, batch: copy.deepcopy(f).to("meta").predict_actions(*[x.to("meta") for x in batch]),
    "inference mode": lambda f, batch: torch.inference_mode()(f.predict_actions)(*batch),
}


def fake(model, batch):
    with FakeTensorMode(allow_non_fake_inputs=True):
        return model.predict_actions(*batch)


@pytest.mark.parametrize("tracer", TRACERS)
def test_a_tracer_leaves_nothing_behind(tracer):
    """A mask that was cached while tracing broke every later session of the process: for sizes that nobody used before."""
    policy = untrained_policy(point_data(), windows={"context_length": 7})
    length = 7
    states, actions = torch.randn(2, length, 2), torch.randn(2, length, 1)
    batch = [states, actions, torch.randn(2, length, 1), torch.arange(length).expand(2, length)]
    with torch.no_grad():
        TRACERS[tracer](policy.model, batch)
    session = policy.session(8.0)
    for _ in range(9):
        assert np.isfinite(session.act(np.zeros(2))).all()
        session.observe(0.1)
    policy.model.train()
    policy.model.predict_actions(*batch).sum().backward()


COMPILED = """
import torch
from rl_transformer import DecisionTransformerConfig, DecisionTransformerModel
config = DecisionTransformerConfig(state_dim=3, act_dim=2, hidden_size=16, n_layer=1, max_ep_len=50)
model = DecisionTransformerModel(config).eval()
batch = torch.randn(2, 6, 3), torch.randn(2, 6, 2), torch.randn(2, 6, 1), torch.arange(6).expand(2, 6)
for call in (model.predict_actions, lambda s, a, r, t: model(s, a, None, r, t, torch.ones(2, 6)).action_preds):
    compiled = torch.compile(call, backend="aot_eager")(*batch)
    torch.testing.assert_close(compiled, call(*batch), atol=1e-5, rtol=1e-4)
call(*batch).sum().backward()
"""


def test_a_compiled_model_computes_the_same_and_the_process_goes_on():
    """In a process of its own: the shape checks of the tests cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_keeps_tensors_between_calls():
    """The mechanism: nothing in models and policy is cached, by whatever decorator."""
    import pathlib

    import rl_transformer

    root = pathlib.Path(rl_transformer.__file__).parent
    sources = [path for folder in ("models", "policy") for path in (root / folder).rglob("*.py")]
    assert len(sources) > 30
    words = ("lru_cache", "functools.cache", "cached_property", "import cache\n", "@cache\n")
    assert not [path.name for path in sources for word in words if word in path.read_text()]


# Other libraries


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
@pytest.mark.parametrize("targets", [["embed_state", "predict_action.0"], ["c_attn", "c_proj", "c_fc"]], ids=str)
def test_peft_adapts_a_model_and_merges_into_a_plain_one(targets, tmp_path):
    """Reported as peft#1846."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import Linear

    model = make("published")
    states, actions, returns, timesteps = inputs(model.config)
    config = LoraConfig(r=2, target_modules=targets, fan_in_fan_out="c_attn" in targets)
    config._register_custom_module({Conv1D: Linear})
    before = model(states, actions, None, returns).action_preds
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    during = adapted(states, actions, None, returns).action_preds
    assert not torch.allclose(during, before, atol=1e-3)
    acting = adapted.base_model.model.predict_actions(states, actions, returns, timesteps)
    torch.testing.assert_close(acting, during, atol=1e-5, rtol=1e-4)
    merged = adapted.merge_and_unload()
    assert type(merged) is DecisionTransformerModel
    torch.testing.assert_close(merged(states, actions, None, returns).action_preds, during, atol=1e-4, rtol=1e-3)
    merged.save_pretrained(tmp_path)
    loaded = DecisionTransformerModel.from_pretrained(tmp_path).eval()
    assert torch.equal(
        loaded(states, actions, None, returns).action_preds, merged(states, actions, None, returns).action_preds
    )


class WithLoss(DecisionTransformerModel):
    """The wrapper of the Hugging Face tutorial."""

    def forward(self, **inputs):
        predicted = super().forward(**inputs)[1]
        real = inputs["attention_mask"].bool()
        return {"loss": (predicted[real] - inputs["actions"][real]).square().mean()}


def test_transformers_trainer_trains_saves_and_resumes(tmp_path):
    """Reported as transformers#13576."""
    from transformers import Trainer, TrainingArguments

    model = WithLoss(make("published").config)
    before = model.embed_state.weight.clone()
    names = ("states", "actions", "returns_to_go", "timesteps")
    rows = [dict(zip(names, [x[0] for x in inputs(model.config, 1)], strict=True)) for _ in range(16)]
    rows = [{**row, "attention_mask": torch.ones(6)} for row in rows]
    options = {"max_steps": 4, "save_steps": 2, "remove_unused_columns": False, "report_to": [], "use_cpu": True}
    arguments = TrainingArguments(str(tmp_path), disable_tqdm=True, **options)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    result = trainer.train()
    assert np.isfinite(result.training_loss)
    assert not torch.equal(model.embed_state.weight, before)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    model.save_pretrained(tmp_path / "model")
    DecisionTransformerModel.from_pretrained(tmp_path / "model")


# Names


def test_reprs_say_what_they_stand_for(tmp_path):
    untrained_policy(point_data()).save(tmp_path / "p")
    policy = load_policy(tmp_path / "p")
    text = repr(policy)
    assert text.startswith("Policy(decision_transformer, ")
    assert "box actions, return_to_go, context of 5 steps, trained on point, on cpu" in text
    session = policy.session(8.0)
    assert repr(session) == "PolicySession(step 0, return_to_go 8)"
    session.act(np.zeros(2))
    assert repr(session) == "PolicySession(step 0, return_to_go 8, waiting for observe)"
    batch = policy.sessions([8.0, 9.0], [0, 1])
    assert repr(batch) == f"SessionBatch(2 live sessions of {text})"
    assert "object at" not in json.dumps(
        [repr(Episode(kind).session()) + repr(Episode(kind).policy) for kind in ALL_KINDS]
    )
