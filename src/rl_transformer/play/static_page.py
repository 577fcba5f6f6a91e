"""Write the page as a folder that any web server can offer: policy and environment run in the visitor's browser."""

from __future__ import annotations

from pathlib import Path

from rl_transformer.environments.key_to_door import PHASE_STEPS, ROOMS, KeyToDoorEnv
from rl_transformer.environments.t_maze import TMazeEnv
from rl_transformer.errors import RLTransformerError
from rl_transformer.export.write import ExportOptions, export_policy
from rl_transformer.play.game import Game
from rl_transformer.play.page_files import PAGE, page_file
from rl_transformer.policy import Policy
from rl_transformer.runtime.files import to_json, write_folder, write_text
from rl_transformer.runtime.reading import read_bytes
from rl_transformer.runtime.types import JsonObject

RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""The files of onnxruntime-web that the page loads."""
RUNTIME_FOLDER = "node_modules/onnxruntime-web/dist"
_CONTENT = "play.json"


def write_page(policy: Policy, game: Game, folder: Path, runtime: Path) -> None:
    """Write the page, the exported policy and the runtime, or leave the disk unchanged.

    Args:
        policy: The policy, which is exported as ONNX.
        game: A game in its environment, which must be one that the page knows.
        folder: Where; an earlier page there is replaced.
        runtime: Folder with the files of onnxruntime-web.

    Raises:
        RLTransformerError: The environment runs in Python only, the runtime is missing, the policy cannot be exported, or
            the folder holds something else.
    """
    # What can be wrong is found before the export, which takes seconds.
    world = describe_world(game)
    fix = f"npm install onnxruntime-web@1.30.0, and name its folder with --web-runtime (here: {RUNTIME_FOLDER})"
    loaded = {name: read_bytes(runtime / name, fix=fix) for name in RUNTIME}
    if folder.exists() and not (folder / _CONTENT).exists() and any(folder.iterdir()):
        raise RLTransformerError("holds something other than a page of rlt play", where=folder, fix="name a new folder")

    def fill(temporary: Path) -> None:
        """Write every file of the page."""
        for name in PAGE:
            content = page_file(name)
            if name == "index.html":
                content = content.replace(b'<html lang="en">', b'<html lang="en" data-source="browser">')
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(content)
        (temporary / "ort").mkdir()
        for name, content in loaded.items():
            (temporary / "ort" / name).write_bytes(content)
        export_policy(policy, temporary / "policy", ExportOptions())
        write_text(temporary / _CONTENT, to_json({**game.describe(), "world": world, "has_attention": False}))

    write_folder(folder, fill)


def describe_world(game: Game) -> JsonObject:
    """Return the environment as worlds.mjs takes it.

    Raises:
        RLTransformerError: It has no counterpart there.
    """
    environment = game.unwrapped
    if isinstance(environment, KeyToDoorEnv):
        return {"name": "KeyToDoor", "rooms": ROOMS, "phase_steps": PHASE_STEPS}
    if isinstance(environment, TMazeEnv):
        return {"name": "TMaze", "length": environment.length}
    raise RLTransformerError(
        f"{type(environment).__name__} runs in Python only, not in a browser",
        where="--static",
        fix="leave --static out: the page then gets its pictures from this machine; Key-to-Door and T-mazes can be exported",
    )
