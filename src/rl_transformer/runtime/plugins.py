"""Load plugins: modules of the user that register readers, conditions, encoders, action heads or trunks.

A plugin is named by the user (``rlt train --plugin MODULE``, or an import in Python), or is an installed package with
an entry point in the group ``rl_transformer.plugins``. Datasets, policies and configuration files can never name one:
loading a file that a stranger wrote must not run code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from types import ModuleType

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.registry import loading_plugin
from rl_transformer.runtime.types import JsonMapping

GROUP = "rl_transformer.plugins"
# Fields by which a file could name code; auto_map is the one of the Hugging Face Hub.
_KEYS = ("plugin", "plugins", "auto_map")
MODULE_OPTIONS = ("evaluation.env_id", "evaluation.wrappers")
"""Options whose values may name a module to import, if they are typed: ``MODULE:NAME``."""


def load_plugins(modules: Sequence[str]) -> None:
    """Import plugin modules by name; the working directory is searched first, as with ``python -m``.

    Args:
        modules: Names of modules, as in an import statement.

    Raises:
        RLTransformerError: There is no such module, or importing it raises an exception.
    """
    for module in modules:
        import_user_module(module, where=f"plugin {module}")


def import_user_module(module: str, *, where: str) -> ModuleType:
    """Import a module that the user named on the command line or in Python; the working directory is searched first.

    Args:
        module: Name of the module, as in an import statement.
        where: What names the module, for messages.

    Raises:
        RLTransformerError: There is no such module, or importing it raises an exception.
    """
    # A script installed as `rlt` has its own folder on the search path, not the working directory. The path is changed
    # only if a module is named, because a file there could otherwise shadow a module of the standard library.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    _import(module, where=where)
    return sys.modules[module]


def load_installed_plugins() -> None:
    """Import the plugins of installed packages, which are their entry points in the group `GROUP`."""
    for entry_point in metadata.entry_points(group=GROUP):
        where = f"plugin {entry_point.module} (entry point {entry_point.name})"
        _import(entry_point.module, where=where, if_absent="reinstall or uninstall the package of this entry point")


def _import(
    module: str,
    *,
    where: str,
    if_absent: str = "name an importable module, for example my_plugin for my_plugin.py in the working directory",
) -> None:
    """Import a plugin.

    Args:
        module: Name of the module.
        where: Description of the plugin for messages.
        if_absent: Fix to suggest if there is no such module.

    Raises:
        RLTransformerError: The module is absent, or importing it raises an exception.
    """
    if "/" in module or not all(module.split(".")):  # a path, or a relative name, which has no package to start from
        raise RLTransformerError("is not the name of a module", where=where, fix=if_absent)
    # The code is the user's, so an exception in it is not a bug of this library. One message is more helpful than a
    # traceback through the import machinery; the original exception stays attached where it is ours to show.
    try:
        with loading_plugin(module):
            import_module(module)
    except RLTransformerError as error:
        # A registration names the plugin already. An error from elsewhere, such as a dataset that the plugin opens,
        # would look as if the user had named that dataset.
        if f"plugin {module}" in error.where:
            raise
        raise RLTransformerError(error.problem, where=f"{where}: {error.where}", fix=error.fix) from error
    except ModuleNotFoundError as error:
        # The plugin itself, or a package around it, may be absent; or it is there and imports a module that is not.
        is_the_plugin = f"{module}.".startswith(f"{error.name}.")
        fix = if_absent if is_the_plugin else f"install {error.name}, which the plugin imports"
        raise RLTransformerError(f"cannot be imported: {error}", where=where, fix=fix) from None
    except (Exception, SystemExit) as error:  # SystemExit: a script without `if __name__ == "__main__"`
        raise RLTransformerError(
            f"raised {type(error).__name__} while it was imported: {error}",
            where=where,
            fix=f"correct the module; python -c 'import {module}' shows the traceback",
        ) from error


def refuse_named_plugins(values: JsonMapping, *, where: object) -> None:
    """Check that a file does not name code to load.

    Args:
        values: Content of the file.
        where: The file, for the message.

    Raises:
        RLTransformerError: The file has a field that names a plugin.
    """
    # Ignoring the field would be as safe, but the user would wonder why the plugin has no effect.
    for key in _KEYS:
        if key in values:
            raise RLTransformerError(
                f"names the plugin {values[key]!r:.200}, and files may not name code to load",
                where=where,
                fix=f"remove the field {key!r} from the file; if you trust the module, pass it as --plugin MODULE",
            )


def refuse_named_module(option: str, value: object, *, where: object) -> None:
    """Check that an option from a file does not name a module that would be imported: ``MODULE:NAME``.

    Args:
        option: Name of the option, one of `MODULE_OPTIONS`.
        value: Its value in the file, one name or a list of names.
        where: The file, for the message.

    Raises:
        RLTransformerError: The value names a module.
    """
    for name in value if isinstance(value, list) else [value]:
        # What follows an equals sign are the arguments of a wrapper, which are plain data.
        if isinstance(name, str) and ":" in name.partition("=")[0]:
            raise RLTransformerError(
                f"{option} {name!r:.200} names a module, and files may not name code to load",
                where=where,
                fix=f"pass it on the command line, as --{option}",
            )
