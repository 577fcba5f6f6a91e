"""Claims about options: none is ignored, each knows its type and bounds, and all survive being written."""

import json
import operator
from dataclasses import fields
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest

from rl_transformer import RLTransformerError
from rl_transformer.config import PRESETS, RunConfig, preset
from rl_transformer.config.sections import ModelConfig
from rl_transformer.language.config import SyntheticPretrainConfig, TextPretrainConfig
from rl_transformer.models import DecisionTransformerConfig
from rl_transformer.policy.make_spec import make_policy_spec, shared_option_names
from rl_transformer.windows.selection import select_data
from tests.toys import point_data, tiny_config
from tests.trajectories.robot import robot_data

CONFIGS = {
    **PRESETS,
    "defaults": RunConfig,
    "pretraining on text": TextPretrainConfig,
    "pretraining on random sequences": SyntheticPretrainConfig,
}
HOLDS = {"above": operator.gt, "at_least": operator.ge, "below": operator.lt, "at_most": operator.le}
OPTIONS = {
    f"{kind.__name__} {name}": (kind, name)
    for kind in (RunConfig, TextPretrainConfig, SyntheticPretrainConfig)
    for name, _, _ in kind().options()
}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]()


def hint_of(config, name):
    section, _, key = name.partition(".")
    return get_type_hints(type(getattr(config, section)))[key]


def item_of(config, name):
    """Return the dataclass field of an option."""
    return next(item for known, _, item in config.options() if known == name)


def plain_types(hint):
    """Return the Python types that a value of an option of type ``hint`` may have."""
    if get_origin(hint) is Literal:
        return {type(value) for value in get_args(hint)}
    if get_origin(hint) in (Union, UnionType):
        return set().union(*(plain_types(part) for part in get_args(hint)))
    return {get_origin(hint) or hint}


def numbers_in(value):
    """Return the numbers that the bounds of an option hold for."""
    values = value if isinstance(value, tuple) else (value,)
    return [number for number in values if isinstance(number, int | float) and not isinstance(number, bool)]


# A misspelled option


@pytest.mark.parametrize(
    ("section", "wrong", "right"),
    [
        ("training", "learningrate", "learning_rate"),
        ("training", "average_decay", "ema_decay"),  # its name in run format 1
        ("model", "hiden_size", "hidden_size"),
        ("evaluation", "target_return", "target_returns"),
    ],
)
def test_a_misspelled_option_is_refused_with_the_right_name(section, wrong, right):
    config = RunConfig()
    with pytest.raises(RLTransformerError, match=f"there is no option '{wrong}'") as error:
        setattr(getattr(config, section), wrong, 1)
    assert error.value.fix.startswith(f"did you mean {right}")
    with pytest.raises(RLTransformerError, match=f"there is no option '{wrong}'") as error:
        config.set(f"{section}.{wrong}", 1)
    assert error.value.fix.startswith(f"did you mean {right}")


def test_a_misspelled_section_is_refused_with_the_right_name():
    config = RunConfig()
    with pytest.raises(RLTransformerError, match=r"there is no option 'traning\.seed'") as error:
        config.set("traning.seed", 1)
    assert error.value.fix.startswith("did you mean training.seed")
    with pytest.raises(RLTransformerError, match="there is no option 'trainings'") as error:
        config.trainings = 1
    assert error.value.fix.startswith("did you mean training")


@pytest.mark.parametrize(
    ("values", "name", "right"),
    [
        ({"traning": {"seed": 1}}, "traning", "training"),
        ({"training": {"sed": 1}}, "sed", "seed"),
    ],
)
def test_a_file_with_a_misspelled_option_is_refused_by_name(values, name, right):
    with pytest.raises(RLTransformerError, match=f"there is no option '{name}'") as error:
        RunConfig.from_dict(values, where="my.yaml")
    assert error.value.where == "my.yaml"
    assert f"did you mean {right}" in error.value.fix


def test_a_file_with_a_value_where_a_section_should_be_is_refused():
    with pytest.raises(RLTransformerError, match="training is 3, not a section of options"):
        RunConfig.from_dict({"training": 3}, where="my.yaml")


# Types and bounds


def test_every_default_is_of_its_type_and_inside_its_bounds(config):
    for name, section, item in config.options():
        value = getattr(section, item.name)
        allowed = plain_types(hint_of(config, name))
        assert type(value) in allowed, name
        for bound, limit in item.metadata["bounds"].items():
            if limit is not None:
                assert all(HOLDS[bound](number, limit) for number in numbers_in(value)), name
        if item.metadata["not_empty"]:
            assert value not in ("", []), name
    config.check_values()


def test_every_option_has_one_line_of_help(config):
    for name, _, item in config.options():
        assert item.metadata["help"].endswith("."), name
        assert "\n" not in item.metadata["help"], name


@pytest.mark.parametrize("case", OPTIONS)
def test_a_value_of_another_type_is_refused_by_name(case):
    kind, name = OPTIONS[case]
    config = kind()
    config.set(name, object())
    with pytest.raises(RLTransformerError, match="is not of type") as error:
        config.check_values()
    assert error.value.where == name


@pytest.mark.parametrize("case", OPTIONS)
def test_bounds_hold_at_their_edge(case):
    kind, name = OPTIONS[case]
    config = kind()
    number = float if float in plain_types(hint_of(config, name)) else int
    is_pair = tuple in plain_types(hint_of(config, name))
    for bound, limit in item_of(config, name).metadata["bounds"].items():
        if limit is None:
            continue
        wrong = {"above": limit, "below": limit, "at_least": limit - 1, "at_most": limit + 1}[bound]
        config.set(name, (0.5, float(wrong)) if is_pair else number(wrong))
        with pytest.raises(RLTransformerError, match="is out of bounds") as error:
            config.check_values()
        assert error.value.where == name
        if bound in ("at_least", "at_most"):
            config.set(name, (0.5, float(limit)) if is_pair else number(limit))
            config.check_values()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1"])
def test_only_finite_numbers_are_numbers(value):
    config = RunConfig()
    config.training.weight_decay = value
    with pytest.raises(RLTransformerError, match="is not of type float") as error:
        config.check_values()
    assert error.value.where == "training.weight_decay"


# Written and read again


def another(value, hint):
    """Return a value of an option's type that differs from ``value``."""
    if get_origin(hint) is Literal:
        return next(other for other in get_args(hint) if other != value)
    if get_origin(hint) in (Union, UnionType):
        return another(None, next(part for part in get_args(hint) if part is not NoneType))
    return {
        bool: not value,
        int: 12345,
        float: 0.123,
        str: "another",
        list: ["a", "b"] if get_args(hint) == (str,) else [1.5, -2.0],
        dict: {"cost_to_go": 25.0},
        tuple: (0.1, 0.2),
    }[get_origin(hint) or hint]


def test_what_is_written_is_read_again(config):
    assert type(config).from_dict(config.to_dict()) == config


@pytest.mark.parametrize("kind", [RunConfig, TextPretrainConfig, SyntheticPretrainConfig])
def test_every_option_survives_a_json_file(kind):
    config = kind(output="somewhere")
    for name, section, item in config.options():
        setattr(section, item.name, another(getattr(section, item.name), hint_of(config, name)))
    defaults = kind()
    assert all(config.get(name) != defaults.get(name) for name, _, _ in config.options())
    assert kind.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_options_that_a_file_leaves_out_have_their_defaults():
    assert RunConfig.from_dict({"training": {"seed": 7}}).training.seed == 7
    read = RunConfig.from_dict({"training": {"seed": 7}})
    read.training.seed = RunConfig().training.seed
    assert read == RunConfig()


def test_configurations_do_not_share_lists_and_dicts():
    one = preset("gym")
    one.model.conditions.append("cost_to_go")
    one.evaluation.targets["cost_to_go"] = 1.0
    assert RunConfig().model.conditions == ["return_to_go"]
    assert RunConfig().evaluation.targets == {}


# Options of the model that the network has too

SHARED = [
    "activation_function", "attn_pdrop", "blocks", "condition_entry", "embd_pdrop", "embedding", "hidden_size",
    "initializer_range", "n_head", "n_inner", "n_layer", "resid_pdrop", "state_encoder", "stream_entry", "tie_action_head", "timestep_embedding",
    "timestep_initializer_range",
]  # fmt: skip
# In both configurations, but what the option leaves open follows from the data or from other options.
RESOLVED = ["action_head", "action_tanh", "conditions", "max_ep_len", "trunk"]
OTHER_VALUES = {
    "activation_function": "silu", "attn_pdrop": 0.3, "blocks": "my_blocks", "condition_entry": "added", "embd_pdrop": 0.3,
    "embedding": "mlp", "hidden_size": 24, "initializer_range": 0.1, "n_head": 2, "n_inner": 40, "n_layer": 3, "resid_pdrop": 0.3,
    "state_encoder": "my_encoder", "stream_entry": "tokens", "tie_action_head": True, "timestep_embedding": "after_norm",
    "timestep_initializer_range": 0.5,
}  # fmt: skip


def test_the_options_that_go_into_the_network_unchanged_are_these():
    assert sorted(shared_option_names()) == SHARED


def test_no_option_of_the_network_is_forgotten():
    """A new option with the same name in both configurations must be added to one of the two lists above."""
    of_network = {item.name for item in fields(DecisionTransformerConfig)}
    of_options = {item.name for item in fields(ModelConfig)}
    assert sorted(of_network & of_options) == sorted(SHARED + RESOLVED)


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_option_reaches_the_network(name):
    def network(**model):
        config = tiny_config("unused", model=model)
        # Streams are those of observations with pictures beside other parts.
        data = select_data(robot_data(2) if name == "stream_entry" else point_data(2), config)
        return make_policy_spec(data.dataset, data.returns, data.split, config, {}).model

    value = OTHER_VALUES[name]
    plain = network()
    assert getattr(plain, name) != value
    changed = network(**{name: value})
    assert getattr(changed, name) == value
    differing = [item.name for item in fields(changed) if getattr(changed, item.name) != getattr(plain, item.name)]
    assert differing == [name]


def test_a_misspelled_attribute_of_the_models_configuration_is_refused_too():
    """transformers' configurations take any attribute, and the model then has the default."""
    config = DecisionTransformerConfig()
    with pytest.raises(RLTransformerError, match="there is no option 'n_layers'") as error:
        config.n_layers = 12
    assert error.value.fix.startswith("did you mean n_layer")


def test_numbers_of_numpy_are_plain_numbers_in_a_configuration():
    """A loop over np.arange gives them, and neither JSON nor the checks of types know them."""
    import numpy as np

    config = RunConfig()
    config.training.batch_size = np.int32(4)
    config.training.learning_rate = np.float64(0.5)
    config.check_values()
    assert type(config.training.batch_size) is int
    assert config.to_dict()["training"]["learning_rate"] == 0.5


@pytest.mark.parametrize("value", [None, {"learning_rate": 1e-3}, RunConfig().model], ids=lambda v: type(v).__name__)
def test_a_section_is_not_replaced_by_something_else(value):
    config = RunConfig()
    with pytest.raises(RLTransformerError, match="training is a section of options"):
        config.training = value
    config.training = preset("fast").training
    assert config.training.batch_size == 256


def test_an_option_cannot_be_deleted():
    """Reading it would give the default of the class instead of the preset's value."""
    config = preset("fast")
    with pytest.raises(RLTransformerError, match="learning_rate cannot be deleted"):
        del config.training.learning_rate
