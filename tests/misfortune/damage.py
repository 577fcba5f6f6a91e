"""Ways in which a folder with a manifest is damaged that no other kind of folder needs: functions of (folder, random, others).

``others`` are folders of the same kind, from which a part may come. Each returns what it did.
"""

import shutil

from tests.hostile_files import mutate_bytes, mutate_values


def change_bytes(folder, random, others):
    return mutate_bytes(folder, random)


def edit_values(folder, random, others):
    """Put a hostile value into the JSON of the folder; where it is not the manifest's own, the manifest's hashes do not follow."""
    before = (folder / "manifest.json").read_bytes()
    what = mutate_values(folder, random)
    if not what.startswith("manifest.json"):
        (folder / "manifest.json").write_bytes(before)
    return what


def grow(folder, random, others):
    """Append bytes to a file."""
    path = pick(folder, random)
    path.write_bytes(path.read_bytes() + random.bytes(int(random.integers(1, 64))))
    return f"{path.name} grew"


def zero_page(folder, random, others):
    """Zero a page of a file, as a file system does that lost a write."""
    path = pick(folder, random)
    content = bytearray(path.read_bytes())
    start = 512 * int(random.integers(1 + len(content) // 512))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    path.write_bytes(content)
    return f"{path.name} zeroed at {start}"


def lose(folder, random, others):
    """Remove a file."""
    path = pick(folder, random)
    path.unlink()
    return f"{path.name} lost"


def take_other(folder, random, others):
    """Replace a file by that of another folder."""
    path = pick(folder, random)
    other = others[random.integers(len(others))]
    shutil.copy(other / path.name, path)
    return f"{path.name} of {other.name}"


def exchange(folder, random, others):
    """Exchange the contents of two files of the folder."""
    one, other = pick(folder, random), pick(folder, random)
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    return f"{one.name} is {other.name}"


def empty(folder, random, others):
    """Remove all files."""
    for path in folder.iterdir():
        path.unlink()
    return "emptied"


def fold(folder, random, others):
    """Put a folder in place of a file."""
    path = pick(folder, random)
    path.unlink()
    path.mkdir()
    return f"{path.name} is a folder"


def link(folder, random, others):
    """Put a link to a file elsewhere in place of a file."""
    path = pick(folder, random)
    path.unlink()
    path.symlink_to(["/etc/passwd", "/nowhere", "../../metrics.jsonl", path.name][random.integers(4)])
    return f"{path.name} is a link"


def add(folder, random, others):
    """Add a file that no manifest lists, under a name at which other libraries look."""
    names = ["notes.txt", "state.pt", ".state.json.tmp-0a1b2c3d", "pytorch_model.bin", "policy.pkl", "modeling.py", "__init__.py", "config.json"]  # fmt: skip
    name = names[random.integers(len(names))]
    (folder / name).write_bytes(random.bytes(9))
    return f"{name} added"


def put_file(folder, random, others):
    """Put a file in place of the folder."""
    shutil.rmtree(folder)
    folder.write_bytes(random.bytes(9))
    return "is a file"


def pick(folder, random):
    """Return one of the regular files in a folder."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.is_symlink()]
    return files[random.integers(len(files))]


DAMAGES = {
    "bytes": change_bytes, "values": edit_values, "grown": grow, "zeroed": zero_page, "lost": lose, "part of another": take_other,
    "exchanged": exchange, "empty": empty, "folder": fold, "link": link, "added": add, "file": put_file,
}  # fmt: skip
