"""The recipes of the project, as docs/recipes.md shows them.

`python -m experiment.recipes` writes the sections of that page anew from recipes/*.json.
"""

from pathlib import Path

import common
from experiment import flags, like
from runtime import json_files

PAGE = common.HERE / "docs" / "recipes.md"
MARK = "<!-- Below: `python -m experiment.recipes`. A test keeps it equal. -->\n"


def paths() -> list[Path]:
    """The files of the project's recipes, by their names."""
    return sorted(like.RECIPES.glob("*.json"))


def page(before: str) -> str:
    """docs/recipes.md, with a section for each recipe below what people write.

    Args:
        before: the page as it is.
    """
    sections = [_section(path) for path in paths()]
    return before.partition(MARK)[0] + MARK + "\n" + "\n".join(sections)


def _section(path: Path) -> str:
    recipe = json_files.read(path)
    about = dict(recipe["about"])
    lines = [
        f"## {about.pop('title')}",
        "",
        f"[`{path.parent.name}/{path.name}`](../recipes/{path.name})",
        "",
    ]
    lines += ["| | |", "| --- | --- |"]
    lines += [f"| {name} | {text} |" for name, text in about.items()]
    lines += [f"| give | `--{name}`: {what} |" for name, what in recipe.get("needs", {}).items()]
    lines += ["", "| flags of | |", "| --- | --- |"]
    values = recipe["flags"]
    for group in flags.GROUPS:
        names = {field.name for field in flags.rows() if field.metadata["group"] == group}
        words = flags.command_line({name: value for name, value in values.items() if name in names})
        lines += [f"| {group} | `{' '.join(words)}` |"] if words else []
    embed = recipe.get("embed")
    lines += [f"| `embed.py` | `{embed}` |"] if embed else []
    lines += [f"| `evaluate.py` | `{each}` |" for each in recipe.get("evaluate", {}).values()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
