"""Claims about the source as a whole: it stays small and readable, runs no code from data, and names its extras right."""

import ast
import io
import re
import tokenize
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "src").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def parsed():
    for path in FILES:
        yield path, ast.parse(path.read_text())


def test_no_file_is_longer_than_300_lines():
    assert len(FILES) > 100
    counts = {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in FILES}
    assert not {path: count for path, count in counts.items() if count > 300}


def test_no_function_is_longer_than_60_lines():
    lengths = {
        f"{path.relative_to(ROOT)}: {node.name}": node.end_lineno - node.lineno + 1
        for path, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert not {name: length for name, length in lengths.items() if length > 60}


def comment_and_code_lines(path):
    """Count lines with a comment for readers, and lines with code; docstrings are neither."""
    tools = re.compile(r"#\s*(?:noqa|fmt:|pyright:|type:)")
    docstrings = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings |= set(range(node.lineno, node.end_lineno + 1))
    comments = set()
    code = set()
    ignored = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            if not tools.match(token.string):
                comments.add(token.start[0])
        elif token.type not in ignored:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(comments), len(code - docstrings)


def test_comments_are_at_least_5_percent_of_code_lines():
    counts = [comment_and_code_lines(path) for path in FILES]
    comments = sum(comments for comments, _ in counts)
    code = sum(code for _, code in counts)
    assert comments / code >= 0.05, f"{comments} lines with comments, {code} lines of code"


def is_packed(node):
    """Return True for ``a, b = x, y``; a swap such as ``a, b = b, a`` needs the tuples."""
    if not (isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)):
        return False
    targets = {ast.unparse(target) for target in node.targets[0].elts}
    return targets != {ast.unparse(value) for value in node.value.elts}


def test_assignments_are_not_packed_into_tuples():
    assignments = [(path, n) for path, tree in parsed() for n in ast.walk(tree) if isinstance(n, ast.Assign)]
    packed = [f"{path.relative_to(ROOT)}:{node.lineno}" for path, node in assignments if is_packed(node)]
    assert len(packed) / len(assignments) < 0.015, packed


def test_types_are_rarely_any_and_rarely_ignored():
    texts = [path.read_text() for path in FILES]
    assert sum(len(re.findall(r": Any\b", text)) for text in texts) <= 60
    assert sum(len(re.findall(r"#\s*(?:pyright|type): ignore", text)) for text in texts) <= 5


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_no_source_unpickles_evaluates_or_names_a_machine(path):
    # The scheme kzl-pickle: has a reader of its own, which unpickles nothing; it may use pickletools to disassemble.
    forbidden = re.compile(
        r"(?<!\bkzl-)\bpickle\b|pickletools\.(?!genops\b)|\b_pickle\b|torch\.load\(|allow_pickle=True|yaml\.load\(|(?<!\.)\beval\(|\bexec\(|trust_remote_code"
        r"|/(?:home|root|work)/"
    )
    assert not [line for line in path.read_text().splitlines() if forbidden.search(line)]


def test_folders_say_their_place_in_the_flow():
    for folder in sorted((ROOT / "src/rl_transformer").rglob("__init__.py")):
        assert folder.read_text().startswith('"""'), folder


def test_released_formats_are_kept():
    from rl_transformer import open_trajectories

    store = open_trajectories(f"rlt:{ROOT / 'tests/released/store-format-1'}")
    assert (store.num_trajectories, store.num_steps) == (3, 36)


# Extras


def required():
    """Every call of `require`: (place, module, extra)."""
    for path, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
                keywords = {
                    keyword.arg: ast.literal_eval(keyword.value)
                    for keyword in node.keywords
                    if keyword.arg != "purpose"
                }
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.literal_eval(node.args[0]), keywords["extra"]


def names(requirements):
    """Return the names of the distributions that apply without any extra of their own."""
    parsed_requirements = [Requirement(text) for text in requirements]
    return {
        canonicalize_name(r.name) for r in parsed_requirements if r.marker is None or r.marker.evaluate({"extra": ""})
    }


def with_dependencies(distributions):
    """Return distributions and everything that they require, as far as it is installed here."""
    found = set()
    waiting = list(distributions)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            waiting += names(metadata.requires(name) or [])
        except metadata.PackageNotFoundError:
            continue
    return found


def modules_of(distributions):
    """Return the modules that the distributions install; one that is not installed here has its own name's."""
    found = {name.replace("-", "_") for name in distributions}
    for module, owners in metadata.packages_distributions().items():
        if {canonicalize_name(owner) for owner in owners} & distributions:
            found.add(module)
    return found


@pytest.mark.parametrize(("place", "module", "extra"), list(required()), ids=lambda value: str(value))
def test_what_require_names_brings_the_module(place, module, extra):
    if extra is None:
        assert module in modules_of(names(PROJECT["dependencies"]))
    else:
        assert extra in PROJECT["optional-dependencies"]
        assert module in modules_of(with_dependencies(names(PROJECT["optional-dependencies"][extra])))


def test_every_extra_is_in_the_table_of_the_readme():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(PROJECT["optional-dependencies"]) <= set(rows)


def test_the_table_of_folders_lists_every_layer_from_bottom_to_top():
    """The README's table and the import contract that `make check` verifies."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer.replace("rl_transformer.", "").split(" | ") for layer in contracts[0]["layers"]]
    height = {name: -position for position, names in enumerate(layers) for name in names}
    rows = re.findall(r"^\| \[`(\w+)(?:/|\.py)`\]\(src/", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(height)
    assert sorted(rows, key=height.__getitem__) == rows
