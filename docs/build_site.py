"""Build the documentation site: ``python docs/build_site.py [FOLDER]``, by default into ``site``.

The pages of docs/ link to other files of the repository: results, source, the README. A code host follows such
links as they are, but a site holds only what is below its own folder. So every file that a page links to is
copied into the site, and the link is rewritten:

    docs/PAGE.md        ->  PAGE.md
    another OTHER.md    ->  repository/OTHER.md, with everything that it links to in turn
    a source file F.py  ->  repository/F.py.md, a page that shows the code
    a folder F          ->  repository/F/index.md, a page that lists its files (or the folder's README.md)
    any other file      ->  repository/FILE, as it is

Warnings, such as a link to nothing, are errors.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def page_of(file: Path) -> Path:
    """Return where a file or folder of the repository is, below the site's sources."""
    if file.is_relative_to(DOCS) and file.is_file():
        return file.relative_to(DOCS)
    place = Path("repository") / file.relative_to(ROOT)
    if file.is_dir():
        return place / ("README.md" if (file / "README.md").exists() else "index.md")
    return place.with_name(f"{place.name}.md") if file.suffix == ".py" else place


def linked_files(page: Path) -> list[Path]:
    """Return the files of the repository that a Markdown page links to."""
    text = CODE_BLOCK.sub("", page.read_text())
    targets = [match[2] for match in LINK.finditer(text) if "://" not in match[2]]
    return [Path(os.path.normpath(page.parent / target)) for target in targets]


def all_files() -> set[Path]:
    """Return every file that the site needs: all of docs/, and what is reached from there by links."""
    found: set[Path] = set()
    waiting = [file for file in DOCS.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    while waiting:
        file = waiting.pop()
        if file.is_dir() and (file / "README.md").exists():
            file = file / "README.md"
        if file in found or not file.exists() or not file.is_relative_to(ROOT):
            continue  # a link to nothing is left to the site generator to report
        found.add(file)
        if file.suffix == ".md":
            waiting += linked_files(file)
    return found


def rewritten(page: Path) -> str:
    """Return a page's text with its links as they are in the site."""

    def rewrite(match: re.Match) -> str:
        target = Path(os.path.normpath(page.parent / match[2]))
        if "://" in match[2] or not target.exists():
            return match[0]
        place = os.path.relpath(page_of(target), page_of(page).parent)
        return f"{match[1]}{place}{match[3] or ''}{match[4]}"

    parts = re.split(f"({CODE_BLOCK.pattern})", page.read_text(), flags=CODE_BLOCK.flags)
    return "".join(part if part.startswith("```") else LINK.sub(rewrite, part) for part in parts)


def code_page(file: Path) -> str:
    """Return a page that shows a source file."""
    return f'# `{file.relative_to(ROOT)}`\n\n```python linenums="1"\n{file.read_text()}```\n'


def folder_page(folder: Path) -> str:
    """Return a page that lists a folder, with the first line of each module's docstring."""
    lines = [f"# `{folder.relative_to(ROOT)}/`", ""]
    for entry in sorted(folder.iterdir()):
        if entry.name == "__pycache__":
            continue
        source = entry / "__init__.py" if entry.is_dir() else entry
        first = source.read_text().split("\n", 1)[0] if source.suffix == ".py" and source.exists() else ""
        text = f": {first.strip(chr(34))}" if first.startswith('"""') else ""
        lines.append(f"- `{entry.name}{'/' if entry.is_dir() else ''}`{text}")
    return "\n".join(lines) + "\n"


def write_sources(target: Path) -> None:
    """Write the pages and files of the site below ``target``."""
    for file in sorted(all_files()):
        place = target / page_of(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            place.write_text(folder_page(file))
        elif file.suffix == ".md":
            place.write_text(rewritten(file))
        elif file.suffix == ".py" and not file.is_relative_to(DOCS):
            place.write_text(code_page(file))
        else:
            shutil.copy(file, place)


def build(output: Path) -> None:
    """Build the site into ``output``, which is replaced."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sources(folder / "docs")
        shutil.copy(ROOT / "zensical.toml", folder)
        command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict"]
        done = subprocess.run(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        print(done.stdout, end="")
        if done.returncode or "warning" in done.stdout.lower():
            sys.exit("error: the site was built with warnings")
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(folder / "site", output)


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site"))
