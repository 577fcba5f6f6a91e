"""Plugins: modules of the user that register readers, conditions, encoders, action heads or trunks.

A plugin is named by the person at the keyboard (``rlt train --plugin MODULE``, or an import in Python), or
is an installed package with an entry point in the group ``rl_transformer.plugins``. Data sets, policies
and configuration files never name one: code must not come out of a file that a stranger wrote.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.registry import loading_plugin
from rl_transformer.runtime.types import JsonMapping

GROUP = "rl_transformer.plugins"
_KEYS = ("plugin", "plugins", "auto_map")


def load_plugins(modules: Sequence[str]) -> None:
    """Import plugin modules by name; the working directory is searched first, as with ``python -m``.

    Raises:
        RLTransformerError: No such module, or one that raises while it is imported.
    """
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        _import(module, where=f"plugin {module}")


def load_installed_plugins() -> None:
    """Import the plugins of installed packages: their entry points in the group `GROUP`."""
    for entry_point in metadata.entry_points(group=GROUP):
        _import(entry_point.module, where=f"plugin {entry_point.module} (entry point {entry_point.name})")


def _import(module: str, *, where: str) -> None:
    try:
        with loading_plugin(module):
            import_module(module)
    except RLTransformerError:
        raise
    except ModuleNotFoundError as error:
        raise RLTransformerError(
            f"cannot be imported: {error}",
            where=where,
            fix="name an importable module, for example my_plugin for my_plugin.py in the working directory",
        ) from None
    except Exception as error:
        raise RLTransformerError(
            f"raised {type(error).__name__} while it was imported: {error}",
            where=where,
            fix=f"correct the module; python -c 'import {module}' shows the traceback",
        ) from error


def refuse_named_plugins(values: JsonMapping, *, where: object) -> None:
    """Refuse a file that asks for code: a plugin is named by the user, never by data."""
    for key in _KEYS:
        if key in values:
            raise RLTransformerError(
                f"names the plugin {values[key]!r:.200}, and files may not name code to load",
                where=where,
                fix=f"remove the field {key!r} from the file; if you trust the module, pass it as --plugin MODULE",
            )
