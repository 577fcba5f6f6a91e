"""What tests of training compare and change: the weights, metrics and checkpoints of run folders."""

import hashlib
import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from rl_transformer import load_policy


def stored_tensors(folder):
    """Return every tensor of a run's policy, as written."""
    return load_file(folder / "policy" / "policy.safetensors")


def model_weights(folder):
    """Return the weights of a run's policy network by name."""
    return dict(load_policy(folder).model.state_dict().items())


def assert_equal_runs(one, other):
    """Check that two runs have the same policy and the same metrics, to the bit."""
    tensors = stored_tensors(one)
    others = stored_tensors(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def cut_after(whole, folder, step, folders=()):
    """Copy a run as it was when its checkpoint of an update was its newest, and without ``folders``."""
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("policy", "finished.json", *folders))
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)


def assert_close_weights(found, expected, *, atol, rtol=1e-5):
    """Check that two dicts of weights are equal up to rounding.

    The bias of the keys moves every score of a query by the same amount, which softmax ignores: its exact gradient
    is zero, and Adam makes steps of the rounding errors. So it only has to be as small as such steps make it.
    """
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        tolerance = atol + rtol * tensor.abs()
        if name.endswith("attn.c_attn.bias"):  # queries, keys, values one after the other
            tolerance.chunk(3)[1].mul_(10)
        error = (found[name] - tensor).abs()
        assert (error <= tolerance).all(), f"{name} differs by {error.max():.2g}"


def rename_tensors(checkpoint, rename):
    """Rename the tensors of a checkpoint, and make its manifest fit; return how many names changed."""
    path = checkpoint / "state.safetensors"
    tensors = load_file(path)
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    save_file(renamed, path, metadata={"format": "pt"})
    content = path.read_bytes()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][path.name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    return len(set(tensors) - set(renamed))
