"""Hostile files: what runs code in other libraries, points out of its folder, or declares more than it holds."""

import io
import json
import pickle
import struct
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile_files import fit_manifest, mutate_behind_hashes, mutate_bytes, mutate_values, places_in


class Gadget:
    """Unpickling it would call a function."""

    def __init__(self, call, argument):
        self.call = call
        self.argument = argument

    def __reduce__(self):
        return self.call, (self.argument,)


def gadget(random):
    """Return an object whose unpickling would run a command, in one of several ways."""
    import os
    import subprocess

    calls = [
        (os.system, "touch pwned"), (eval, "__import__('os').system('touch pwned')"), (exec, "import evil_module"),
        (subprocess.getoutput, "touch pwned"), (__import__, "evil_module"), (open, "pwned"),
    ]  # fmt: skip
    return Gadget(*calls[random.integers(len(calls))])


def pick_file(folder, random, suffixes=()):
    """Return one of the files in a folder, of these suffixes if there is one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    some = [path for path in files if path.suffix in suffixes] or files
    return some[random.integers(len(some))]


def pickle_in_place(folder, random):
    """Put a pickle in place of a file."""
    path = pick_file(folder, random)
    path.write_bytes(pickle.dumps(gadget(random), int(random.integers(6))))
    return path


def torch_archive_in_place(folder, random):
    """Put what torch.save would write in place of a file: an archive with a pickle."""
    path = pick_file(folder, random, (".safetensors",))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": gadget(random)}, 2))
        archive.writestr("archive/version", "3")
    return path


def object_array_in_place(folder, random):
    """Put an array of Python objects in place of a file, which numpy would unpickle."""
    path = pick_file(folder, random, (".npy", ".npz", ".gz"))
    array = np.array([gadget(random)], dtype=object)
    with path.open("wb") as file:
        if random.random() < 0.5:
            np.save(file, array, allow_pickle=True)
        else:
            np.savez(file, observations=array, allow_pickle=True)
    return path


def link_out(folder, random):
    """Put a link to a file elsewhere in place of a file."""
    path = pick_file(folder, random)
    path.unlink()
    path.symlink_to([folder.parent / "secret", "/etc/passwd", "/proc/self/environ", "/dev/zero"][random.integers(4)])
    return path


def name_out(folder, random):
    """Let a manifest list a file elsewhere."""
    path = pick_file(folder, random, (".json",))
    content = json.loads(path.read_text())
    name = ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "secret\0.npy"][random.integers(5)]
    if isinstance(content, dict):
        listed = content.get("files")
        target = listed if isinstance(listed, dict) else content
        target[name] = next(iter(target.values()), {})
    path.write_text(json.dumps(content))
    return path


def keys_that_run_code(folder, random):
    """Add the keys by which other libraries import code, to a JSON or YAML file."""
    path = pick_file(folder, random, (".json", ".yaml"))
    key = ["_target_", "auto_map", "trust_remote_code", "entry_point", "env_spec", "eval_env_spec", "plugins", "__class__", "kwargs"][random.integers(9)]  # fmt: skip
    value = ["evil_module:run", {"AutoModel": "evil_module.run"}, True, '{"entry_point": "evil_module:run"}', ["evil_module"]][random.integers(5)]  # fmt: skip
    if path.suffix == ".yaml":
        tag = ["!!python/object/apply:os.system [touch pwned]", "!!python/name:evil_module.run", "!!python/module:evil_module"][random.integers(3)]  # fmt: skip
        path.write_text(
            path.read_text() + (f"\n{key}: {json.dumps(value)}\n" if random.random() < 0.5 else f"\n{key}: {tag}\n")
        )
        return path
    content = json.loads(path.read_text())
    containers = [content, *(box[name] for box, name in places_in(content) if isinstance(box[name], dict))]
    chosen = containers[random.integers(len(containers))]
    if isinstance(chosen, dict):
        chosen[key] = value
    path.write_text(json.dumps(content))
    return path


def code_beside(folder, random):
    """Put Python files beside the data, under the names that import systems look for."""
    for name in (
        "sitecustomize.py",
        "usercustomize.py",
        "conftest.py",
        "evil_module.py",
        "modeling.py",
        "__init__.py",
        "plugin.pkl",
    ):
        (folder / name).write_text("import os\nos.system('touch pwned')\n")
        if (folder / "it").is_dir():
            (folder / "it" / name).write_text("import os\nos.system('touch pwned')\n")
    return folder


def hdf5_that_points_out(folder, random):
    """Let a column of an HDF5 file be kept in another file, in one of four ways."""
    path = pick_file(folder, random, (".hdf5",))
    secret = folder.parent / "secret.hdf5"
    with h5py.File(secret, "w") as file:
        file["secret"] = np.zeros((50, 3))
    with h5py.File(path, "a") as file:
        names = []
        file.visit(lambda name: names.append(name) if isinstance(file[name], h5py.Dataset) else None)
        name = names[random.integers(len(names))]
        del file[name]
        way = random.integers(4)
        if way == 0:
            file[name] = h5py.ExternalLink(str(secret), "/secret")
        elif way == 1:
            file[name] = h5py.SoftLink("/nowhere")
        elif way == 2:
            file.create_dataset(name, (50, 3), "f8", external=[(str(folder.parent / "secret"), 0, 1200)])
        else:
            layout = h5py.VirtualLayout((50, 3), "f8")
            layout[:] = h5py.VirtualSource(str(secret), "secret", (50, 3))
            file.create_virtual_dataset(name, layout)
    return path


def arrow_extension(folder, random):
    """Let a column of a table have an extension type whose description is a pickle (CVE-2023-47248)."""
    path = pick_file(folder, random, (".parquet", ".arrow"))
    data = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(gadget(random)),
    }
    schema = pa.schema([pa.field("observations", pa.float64(), metadata=data), pa.field("actions", pa.float64())])
    table = pa.table([pa.array(np.zeros(8)), pa.array(np.zeros(8))], schema=schema)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(str(path), schema) as stream:
            stream.write_table(table)
    return path


def behind_hashes(plant):
    """Return a function that plants a file and then makes the manifest fit."""

    def both(folder, random):
        path = plant(folder, random)
        if path.is_file() and not path.is_symlink():
            fit_manifest(path)
        return f"{plant.__name__} in {path.relative_to(folder.parent)}"

    both.__name__ = plant.__name__
    return both


ANY = [mutate_bytes, mutate_behind_hashes, *map(behind_hashes, (pickle_in_place, torch_archive_in_place, object_array_in_place, link_out, code_beside))]  # fmt: skip
JSON = [mutate_values, *map(behind_hashes, (name_out, keys_that_run_code))]
PLANTS = {
    "store": [*ANY, *JSON], "policy": [*ANY, *JSON], "run": [*ANY, *JSON], "config": [*ANY, mutate_values, behind_hashes(keys_that_run_code)],
    "minari": [*ANY, *JSON, behind_hashes(hdf5_that_points_out)], "d4rl": [*ANY, behind_hashes(hdf5_that_points_out)], "replay": ANY,
    "parquet": [*ANY, behind_hashes(arrow_extension)], "hf": [*ANY, behind_hashes(arrow_extension)], "csv": ANY, "jsonl": ANY,
}  # fmt: skip
"""Ways to make a hostile file, by kind."""


# Bombs: small files that declare much. Each is a function of (folder, size) for a kind of file.

SIZES = [10**6, 10**8, 10**9, 2**33, 2**40, 10**15, 2**62, 2**63, 10**19, 10**30]


def npy_header(shape, descr="<f4"):
    """Return the beginning of a .npy file."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text), 65535)) + text


def _replace(folder, suffixes, content):
    path = next(p for p in sorted(folder.rglob("*")) if p.suffix in suffixes)
    path.write_bytes(content)
    fit_manifest(path)


def _safetensors(header, size=None):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else min(size, 2**64 - 1)) + text


def _declared_hdf5(folder, size, **options):
    path = next(p for p in folder.rglob("*.hdf5"))
    with h5py.File(path, "w") as file:
        for name in ("rewards", "terminals", "actions"):
            file[name] = np.zeros(3)
        file.create_dataset("observations", (min(size, 2**62),), "f4", chunks=(1 << 16,), **options)


def _npz(folder, size):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("observations.npy", npy_header((size, 3)) + bytes(10**6))
    _replace(folder, (".hdf5", ".npy"), buffer.getvalue())


CRAFTED = {
    "deep YAML": ("config", lambda f, n: (f / "it.yaml").write_bytes(b"a: " + b"[" * min(n, 10**6))),
    "deep mapping in YAML": ("config", lambda f, n: (f / "it.yaml").write_bytes(b"{a: " * min(n, 10**5))),
    "keys in YAML": ("config", lambda f, n: (f / "it.yaml").write_bytes(b"".join(b"k%d: 1\n" % i for i in range(min(n, 10**5))))),
    "digits in YAML": ("config", lambda f, n: (f / "it.yaml").write_bytes(b"seed: " + b"9" * min(n, 10**6))),
    "aliases in YAML": ("config", lambda f, n: (f / "it.yaml").write_bytes(
        b"a: &a [x,x,x,x]\n" + b"".join(b"%c: &%c [*%c,*%c]\n" % (c, c, c - 1, c - 1) for c in range(98, 98 + n % 20 + 5)))),
    "deep JSON in a policy": ("policy", lambda f, n: _replace(f, (".json",), b'{"a":' * min(n, 10**6))),
    "deep JSON in a store": ("store", lambda f, n: _replace(f, (".json",), b"[" * min(n, 10**7))),
    "digits in JSON": ("store", lambda f, n: _replace(f, (".json",), b'{"a": ' + b"9" * min(n, 10**7) + b"}")),
    "large JSON": ("policy", lambda f, n: _replace(f, (".json",), b" " * min(n, 70_000_000))),
    "header of tensors": ("policy", lambda f, n: _replace(f, (".safetensors",), _safetensors({}, n))),
    "tensor": ("policy", lambda f, n: _replace(f, (".safetensors",), _safetensors({"w": {"dtype": "F32", "shape": [n, n], "data_offsets": [0, 4 * n * n]}}))),
    "empty tensors": ("policy", lambda f, n: _replace(f, (".safetensors",), _safetensors({f"w{i}": {"dtype": "F32", "shape": [n, 0], "data_offsets": [0, 0]} for i in range(10_000)}))),
    "column of a store": ("store", lambda f, n: _replace(f, (".npy",), npy_header((n, 3)))),
    "column of records": ("store", lambda f, n: _replace(f, (".npy",), npy_header((3,), [("a", "<f8", (n,))]))),
    "column of wide texts": ("store", lambda f, n: _replace(f, (".npy",), npy_header((3,), f"<U{n}"))),
    "HDF5, declared": ("d4rl", _declared_hdf5),
    "HDF5, declared and compressed": ("d4rl", lambda f, n: _declared_hdf5(f, n, compression="gzip")),
    "HDF5, declared, in Minari": ("minari", _declared_hdf5),
    "archive in place of HDF5": ("d4rl", _npz),
    "line of a CSV file": ("csv", lambda f, n: (f / "it").write_bytes(b"episode,step\n" + b"1" * min(n, 10**8))),
    "columns of a CSV file": ("csv", lambda f, n: (f / "it").write_bytes(b",".join(b"c%d" % i for i in range(min(n, 10**5))) + b"\n")),
    "deep JSON lines": ("jsonl", lambda f, n: (f / "it").write_bytes(b'{"a":' * min(n, 10**6))),
}  # fmt: skip
