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


def register_from(module, registry, name, implementation):
    """Register as the module of that name does: a registration belongs to the module that makes it."""
    names = {"__name__": module, "registry": registry, "name": name, "implementation": implementation}
    exec("registry.register(name, implementation)", names)


@pytest.fixture
def wheels():
    registry = Registry("wheel", required=("radius", "turn"))
    register_from("rl_transformer.wheels", registry, "round", Wheel)
    register_from("rl_transformer.wheels", registry, "rounder", Wheel)
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


def test_after_a_plugin_was_loaded_registrations_belong_to_the_modules_that_make_them_again(wheels):
    with pytest.raises(ZeroDivisionError), loading_plugin("broken"):
        raise ZeroDivisionError
    wheels.register("imported", Wheel)
    assert wheels.owner("imported") == __name__
    assert wheels.is_from_plugin("imported")


@pytest.mark.parametrize(
    ("module", "owner"),
    [
        ("rl_transformer", "rl_transformer"),
        ("rl_transformer.wheels", "rl_transformer"),
        ("rl_transformer_wheels", "my_wheels"),
        ("my_wheels.parts", "my_wheels"),
    ],
)
def test_what_this_package_registers_while_a_plugin_imports_it_is_not_the_plugins(wheels, module, owner):
    with loading_plugin("my_wheels"):
        register_from(module, wheels, "new", Wheel)
    assert wheels.owner("new") == owner


def test_a_class_that_is_defined_again_replaces_itself_and_nothing_else_does(wheels):
    again = type("Wheel", (Wheel,), {"radius": 2, "__qualname__": "Wheel"})
    register_from("notebook", wheels, "mine", Wheel)
    register_from("notebook", wheels, "mine", again)
    assert wheels.get("mine", where="test") is again
    other = type("Other", (Wheel,), {"__qualname__": "Other"})
    for module, name, implementation in (
        ("notebook", "mine", other),
        ("elsewhere", "mine", again),
        ("notebook", "round", again),
        ("rl_transformer.wheels", "round", again),
    ):
        with pytest.raises(RLTransformerError, match="has registered already"):
            register_from(module, wheels, name, implementation)
    assert wheels.get("mine", where="test") is again
    assert wheels.get("round", where="test") is Wheel


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
    register_from("rl_transformer.wheels", wheels, "later", f"{__name__}:Wheel")
    register_from("rl_transformer.wheels", wheels, "never", "no_such_module:Wheel")  # costs nothing until it is used
    assert wheels.get("later", where="test") is Wheel
    with pytest.raises(ModuleNotFoundError):
        wheels.get("never", where="test")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no_such_module:Wheel", "importing no_such_module:Wheel raised ModuleNotFoundError"),
        (f"{__name__}:Absent", f"importing {__name__}:Absent raised AttributeError"),
        (f"{__name__}:Square", "registers the wheel 'named', which lacks turn"),
    ],
)
def test_an_implementation_that_a_plugin_names_as_text_is_checked_when_it_is_imported(wheels, path, problem):
    register_from("my_wheels", wheels, "named", path)
    with pytest.raises(RLTransformerError, match=problem) as error:
        wheels.get("named", where="test")
    assert error.value.where == "plugin my_wheels"


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
