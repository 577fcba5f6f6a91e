"""Claims about registries: names are unique, and every refusal names the plugin that caused it."""

import pytest

from rl_transformer import RLTransformerError
from rl_transformer.conditions import CONDITIONS
from rl_transformer.models.embeddings import ENCODERS
from rl_transformer.models.heads import HEADS
from rl_transformer.models.trunk.interface import TRUNKS
from rl_transformer.runtime.registry import Registry, broken_contract, call_plugin, loading_plugin
from rl_transformer.trajectories.readers import READERS


class Wheel:
    """A complete implementation."""

    radius = 1

    def turn(self):
        return "turned"


class Square:
    """An implementation that lacks the method ``turn``."""

    radius = 1


@pytest.fixture
def wheels():
    registry = Registry("wheel", required=("radius", "turn"))
    registry.register("round", Wheel)
    registry.register("rounder", Wheel)
    return registry


def test_registered_implementations_are_found_by_name_in_order(wheels):
    assert wheels.names() == ["round", "rounder"]
    assert wheels.get("round", where="test") is Wheel
    assert wheels.owner("round") == "rl_transformer"
    assert not wheels.is_from_plugin("round")


@pytest.mark.parametrize(
    ("name", "implementation", "problem"),
    [
        ("round", Wheel, "registers the wheel 'round', which rl_transformer has registered already"),
        ("", Wheel, "registers the wheel ''"),
        ("a wheel", Wheel, "registers the wheel 'a wheel'"),
        ("../wheel", Wheel, "registers the wheel '../wheel'"),
        ("wheel:Wheel", Wheel, "registers the wheel 'wheel:Wheel'"),
        (7, Wheel, "registers the wheel 7"),
        ("square", Square, "registers the wheel 'square', which lacks turn"),
    ],
)
def test_a_refused_registration_names_the_plugin_and_changes_nothing(wheels, name, implementation, problem):
    with pytest.raises(RLTransformerError) as error, loading_plugin("my_wheels"):
        wheels.register(name, implementation)
    assert error.value.where == "plugin my_wheels"
    assert error.value.problem == problem
    assert error.value.fix
    assert wheels.names() == ["round", "rounder"]
    assert wheels.get("round", where="test") is Wheel


def test_everything_that_is_missing_is_named_at_once(wheels):
    with pytest.raises(RLTransformerError, match="lacks radius, turn"):
        wheels.register("nothing", object())


def test_a_name_that_a_plugin_has_taken_is_refused_with_that_plugins_name(wheels):
    with loading_plugin("first"):
        wheels.register("square", Wheel)
    with pytest.raises(RLTransformerError, match="first has registered already") as error, loading_plugin("second"):
        wheels.register("square", Wheel)
    assert error.value.where == "plugin second"
    assert wheels.owner("square") == "first"
    assert wheels.is_from_plugin("square")


def test_after_a_plugin_was_loaded_registrations_are_our_own_again(wheels):
    with pytest.raises(ZeroDivisionError), loading_plugin("broken"):
        raise ZeroDivisionError
    wheels.register("own", Wheel)
    assert wheels.owner("own") == "rl_transformer"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("rond", "did you mean round"), ("roundr", "did you mean rounder or round?"), ("zebra", "Registered: round")],
)
def test_an_unknown_name_suggests_similar_ones(wheels, name, suggestion):
    with pytest.raises(RLTransformerError, match=f"there is no wheel '{name}'") as error:
        wheels.get(name, where="model.wheel")
    assert error.value.where == "model.wheel"
    assert error.value.fix.startswith(suggestion)
    assert "Registered: round, rounder" in error.value.fix
    assert "--plugin MODULE" in error.value.fix


def test_an_implementation_named_as_text_is_imported_when_it_is_asked_for(wheels):
    wheels.register("later", f"{__name__}:Wheel")
    wheels.register("never", "no_such_module:Wheel")  # costs nothing as long as nobody asks
    assert wheels.get("later", where="test") is Wheel
    with pytest.raises(ModuleNotFoundError):
        wheels.get("never", where="test")


def test_a_name_can_be_registered_again_after_it_was_removed(wheels):
    wheels.unregister("round")
    assert wheels.names() == ["rounder"]
    wheels.register("round", Wheel)
    assert wheels.names() == ["rounder", "round"]


def test_an_exception_of_a_plugin_is_reported_with_its_module_and_one_of_ours_is_a_bug(wheels):
    def fails():
        raise ZeroDivisionError("by nothing")

    with loading_plugin("my_wheels"):
        wheels.register("theirs", Wheel)
    with pytest.raises(RLTransformerError, match=r"turn\(\) raised ZeroDivisionError: by nothing") as error:
        call_plugin(wheels, "theirs", "turn()", fails)
    assert error.value.where == "plugin my_wheels"
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        call_plugin(wheels, "round", "turn()", fails)
    assert call_plugin(wheels, "theirs", "turn()", Wheel().turn) == "turned"


def test_an_error_for_the_user_passes_through_unchanged(wheels):
    original = broken_contract(wheels, "round", "it is square")

    def fails():
        raise original

    with loading_plugin("my_wheels"):
        wheels.register("theirs", Wheel)
    with pytest.raises(RLTransformerError) as error:
        call_plugin(wheels, "theirs", "turn()", fails)
    assert error.value is original


@pytest.mark.parametrize("registry", [CONDITIONS, ENCODERS, HEADS, READERS, TRUNKS], ids=lambda registry: registry.kind)
def test_built_in_implementations_can_be_imported_and_are_complete(registry):
    for name in registry.names():
        implementation = registry.get(name, where="test")
        assert registry.owner(name) == "rl_transformer"
        assert [attribute for attribute in registry.required if not hasattr(implementation, attribute)] == []
