"""The recipes of the project, as docs/recipes.md shows them and as recipes/run.sh runs them.

`python -m experiment.recipes` writes the sections of that page anew from recipes/*.json.
`python -m experiment.recipes RECIPE PART` prints a part of a recipe.
"""

import argparse
from pathlib import Path
from typing import Any

import common
from common import UserError
from experiment import flags, like
from runtime import json_files

PAGE = common.HERE / "docs" / "recipes.md"
MARK = "<!-- Below: `python -m experiment.recipes`. A test keeps it equal. -->\n"

# The parts that recipes/run.sh needs beside the flags.
RUN = ("data", "embed", "evaluate")


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


def part(name: str, key: str) -> list[str]:
    """What recipes/run.sh calls a command with, by a recipe.

    Args:
        name: of the recipe, as --like has it.
        key: one of RUN.

    Returns:
        a line of data and of embed; of evaluate one for each evaluation: its name, then its flags.
        [] where the recipe lacks the part.
    Raises:
        UserError: there is no such recipe, or it or the part is not as it should be.
    """
    path, content = like.content_of(name)
    value = content.get(key)
    if value is None:
        return []
    if key != "evaluate":
        return [_line(path, key, value)]
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: {key} should be an object of flags by names. Received: {type(value).__name__}."
        )
    for each in value:
        if len(str(each).split()) != 1:
            raise UserError(
                f"{path}: {key} should have names in one word, as files are called so. Received: {each!a}."
            )
    return [f"{each} {_line(path, key, text)}" for each, text in value.items()]


def _line(path: str, key: str, text: Any) -> str:
    if not isinstance(text, str) or len(text.splitlines()) > 1:
        raise UserError(
            f"{path}: {key} should have flags in a line of text. Received: {str(text)[:100]!a}."
        )
    return text


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument("recipe", nargs="?", help="A recipe, as train.py --like has it.")
    parser.add_argument("part", nargs="?", choices=RUN, help="What to print of it.")
    args = parser.parse_args(argv)
    if args.recipe and not args.part:
        parser.error("argument part: needed beside a recipe")
    return args


def main(args: argparse.Namespace) -> None:
    if args.recipe:
        print("\n".join(part(args.recipe, args.part)))
    else:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    common.run(main, parse_args)
