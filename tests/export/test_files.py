"""Claims about the files of an export and about `rlt verify`: one tiny policy is exported once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_transformer.cli.main import main
from rl_transformer.errors import RLTransformerError
from rl_transformer.export.reference.golden import replay
from rl_transformer.export.reference.session import Policy as ExportedPolicy
from rl_transformer.export.verify import verify
from rl_transformer.runtime.files import MANIFEST, to_json
from rl_transformer.runtime.reading import sha256
from tests.policy.kinds import discrete_data
from tests.toys import point_data, untrained_policy

pytest.importorskip("onnxscript", reason="the extra export installs it")
onnx = pytest.importorskip("onnx", reason="the extra export installs it")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    policy = untrained_policy(point_data(), model={"attention": "sliding_window", "n_layer": 1})
    policy.save(folder / "policy")
    words = ["export", str(folder / "policy"), "--to", str(folder / "export"), "--cached", "--quantize", "int8"]
    assert main([*words, "--also", "pt2", "triton", "--json", str(folder / "out.json")]) == 0
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    shutil.copytree(exported / "export", tmp_path / "copy")
    return tmp_path / "copy"


def test_an_export_holds_its_promises_and_says_so(exported, tmp_path, capsys):
    assert main(["verify", str(exported / "export"), "--json", str(tmp_path / "v.json")]) == 0
    promises = json.loads((tmp_path / "v.json").read_text())["promises"]
    assert len(promises) == 2 + 2 * 3
    assert all(promise["holds"] for promise in promises)
    assert "policy_step.onnx repeats the recorded actions" in capsys.readouterr().out


def test_the_files_are_complete_and_name_nothing_of_this_machine(exported):
    names = {path.relative_to(exported / "export").as_posix() for path in (exported / "export").rglob("*")}
    assert {"policy.onnx", "policy_step.onnx", "policy_int8.onnx", "policy.pt2", "golden.npz", "session.mjs"} <= names
    assert {"triton/policy/config.pbtxt", "triton/policy/1/model.onnx"} <= names
    for name in ("policy.onnx", "policy_step.onnx"):
        assert b"/site-packages/" not in (exported / "export" / name).read_bytes()
    rules = json.loads((exported / "export/policy.json").read_text())
    assert 1e-5 < rules["files"]["policy_int8.onnx"]["largest_difference"] < 0.2
    config = (exported / "export/triton/policy/config.pbtxt").read_text()
    assert 'input [{ name: "observations" data_type: TYPE_FP32 dims: [ -1, 2 ] }]' in config
    assert 'input [{ name: "lengths" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } }]' in config


def test_the_python_client_needs_only_numpy_and_onnxruntime(exported):
    script = (
        "import sys, runpy; sys.argv = ['golden.py', '.']; sys.path.insert(0, '.')\n"
        "try: runpy.run_path('golden.py', run_name='__main__')\n"
        "except SystemExit as error: assert error.code == 0, error\n"
        "assert not {'torch', 'rl_transformer'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=exported / "export", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["largest_difference"] < 1e-5


def test_the_saved_program_of_pytorch_repeats_the_recorded_actions_after_it_was_loaded(exported):
    program = torch.export.load(exported / "export/policy.pt2").module()
    policy = ExportedPolicy(exported / "export")
    with np.load(exported / "export/golden.npz") as golden:
        steps = dict(golden)

    class Network:
        @torch.inference_mode()
        def run(self, _, feed):
            return [output.numpy() for output in program(**{n: torch.from_numpy(v) for n, v in feed.items()})]

    policy.model = Network()
    actions = replay(policy, steps)
    assert len(actions) == 64
    np.testing.assert_allclose(actions, steps["actions"], rtol=0, atol=1e-5)


def test_the_javascript_client_repeats_the_recorded_actions(exported, tmp_path):
    node = shutil.which("node")
    packages = Path(sys.prefix, "node_modules")
    if node is None or not (packages / "onnxruntime-web").is_dir():
        pytest.skip("node or its package onnxruntime-web is not installed (make parts)")
    shutil.copytree(exported / "export", tmp_path / "copy")
    (tmp_path / "copy/node_modules").symlink_to(packages)
    for file in ("policy.onnx", "policy_step.onnx"):
        done = subprocess.run(
            [node, "golden.mjs", ".", file], cwd=tmp_path / "copy", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["steps"] == 64
        assert result["largest_difference"] < 1e-5


# Damage


def rewrite_manifest(folder):
    """Make the hashes those of the files as they are, as somebody would who wants a change to go unnoticed."""
    files = json.loads((folder / MANIFEST).read_text())["files"]
    changed = {name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in files}
    (folder / MANIFEST).write_text(to_json({"files": changed}))


def edit_rules(folder, change):
    rules = json.loads((folder / "policy.json").read_text())
    change(rules)
    (folder / "policy.json").write_text(json.dumps(rules))


def edit_network(folder, change):
    model = onnx.load(folder / "policy.onnx")
    change(model)
    (folder / "policy.onnx").write_bytes(model.SerializeToString())


def truncate(folder):
    content = (folder / "policy.onnx").read_bytes()
    (folder / "policy.onnx").write_bytes(content[: len(content) // 2])


def put_elsewhere(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def put_nan(model):
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def scale_weights(model):
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim == 2:
            tensor.CopyFrom(onnx.numpy_helper.from_array(-array, tensor.name))


DAMAGE = {
    "a truncated network": truncate,
    "numbers in another file": lambda folder: edit_network(folder, put_elsewhere),
    "NaN in a network": lambda folder: edit_network(folder, put_nan),
    "other weights": lambda folder: edit_network(folder, scale_weights),
    "a foreign operator": lambda f: edit_network(f, lambda m: setattr(m.graph.node[0], "domain", "somebody.else")),
    "a shorter window": lambda f: edit_rules(f, lambda rules: rules.update(window_length=1)),
    "a later format": lambda f: edit_rules(f, lambda rules: rules.update(format_version=99)),
    "rules without conditions": lambda f: edit_rules(f, lambda rules: rules.pop("conditions")),
    "a file outside": lambda f: edit_rules(f, lambda rules: rules["files"].update({"../x.onnx": {}})),
    "conditions that are text": lambda f: edit_rules(f, lambda rules: rules.update(conditions="return_to_go")),
    "pickled steps": lambda f: np.savez(f / "golden.npz", actions=np.array([{}], dtype=object)),
    "no steps": lambda f: (f / "golden.npz").write_bytes(b"PK"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_changed_export_is_noticed_by_its_hashes_and_without_them(damage, copy):
    DAMAGE[damage](copy)
    report = verify(copy)
    assert not report.promises[0].holds
    rewrite_manifest(copy)
    report = verify(copy)
    assert report.promises[0].holds
    assert not report.holds, damage


def test_a_missing_file_is_noticed(copy):
    (copy / "session.py").unlink()
    assert not verify(copy).holds


def test_a_policy_holds_its_promises_until_a_byte_changes(exported, tmp_path, capsys):
    shutil.copytree(exported / "policy", tmp_path / "policy")
    assert main(["verify", str(tmp_path / "policy")]) == 0
    assert "to the bit: 44 of 44 actions" in capsys.readouterr().out
    tensors = tmp_path / "policy/policy.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    assert main(["verify", str(tmp_path / "policy"), "--json", str(tmp_path / "v.json")]) == 2
    assert [p["holds"] for p in json.loads((tmp_path / "v.json").read_text())["promises"]] == [False, False]


def test_logged_steps_are_replayed_through_sessions_and_windows():
    data = discrete_data()
    policy = untrained_policy(data)
    from rl_transformer.export.verify_policy import _replay

    assert _replay(policy, data).startswith("48 steps of 8 episodes")


def test_what_cannot_be_exported_or_verified_is_refused(exported, tmp_path):
    full = untrained_policy(discrete_data())
    full.save(tmp_path / "full")
    assert main(["export", str(tmp_path / "full"), "--to", str(tmp_path / "out"), "--cached"]) == 2
    assert main(["export", str(tmp_path / "full"), "--to", str(exported / "policy")]) == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(RLTransformerError, match="no such folder"):
        verify(tmp_path / "nothing")
    assert main(["verify", str(exported / "export"), "--token-file", "x"]) == 2
