"""The recipes: the YAML files that come with the package, found by name.

They have one place, `configs/` of the repository, which lies in the wheel as `comem/configs/`. A recipe's
name is its path there without the ending: `train/paper`, `train/ablations/queries_4`, `accelerate/fsdp2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from comem.config import EXTENDS, ConfigError, option
from comem.io.console import print_line, print_table
from comem.io.files import write_atomic
from comem.registry import nearest

_PACKAGE = Path(__file__).resolve().parent
_ENDINGS = (".yaml", ".yml")


class RecipeError(ConfigError):
    """No such recipe, several of that name, or a file in the way of a copy."""


@dataclass(frozen=True)
class Recipe:
    """A YAML file of settings.

    Attributes:
        name: what it is called: `train/paper`.
        path: where it lies.
        summary: the first sentence of its opening comment.
    """

    name: str
    path: Path
    summary: str

    @property
    def kind(self) -> str:
        """What it is for: `train`, `data`, `retrieval`, or `accelerate`."""
        return self.name.split("/")[0]


def recipes(kind: str = "") -> tuple[Recipe, ...]:
    """All recipes by name, or those of one kind.

    Examples:
        >>> [each.name for each in recipes("retrieval")]
        ['retrieval/laptop', 'retrieval/paper', 'retrieval/toy']
    """
    root = _root()
    found = [
        Recipe(path.relative_to(root).with_suffix("").as_posix(), path, _summary(path))
        for path in sorted(root.rglob("*.yaml"))
    ]
    return tuple(each for each in found if kind in ("", each.kind))


def find_recipe(name: str | Path, kind: str = "") -> Path:
    """The file that a name stands for: a file's own path, or a recipe.

    Args:
        name: the path of a file, which goes first; or a recipe, in full (`train/paper`), by what is behind
            its kind (`paper`), or by its last part (`queries_4`). A path in the repository,
            `configs/train/paper.yaml`, finds the recipe from elsewhere, too.
        kind: where a short name is looked for; "" for everywhere.

    Raises:
        RecipeError: neither a file nor a recipe (the nearest are offered), or the name of several recipes.

    Examples:
        >>> find_recipe("paper", "train").name
        'paper.yaml'
    """
    if Path(name).is_file():
        return Path(name)
    words = Path(name).as_posix().removeprefix("configs/")
    ending = next((each for each in _ENDINGS if words.endswith(each)), "")
    short = words.removesuffix(ending)
    known = recipes(kind)
    for rule in (_whole, _behind_the_kind, _last_part):
        found = [each for each in known if rule(each) == short]
        if len(found) == 1:
            return found[0].path
        if found:
            raise RecipeError(f"{name}: which recipe? {' or '.join(each.name for each in found)}")
    if ending:
        raise RecipeError(f"{name}: no such config file")
    names = [_behind_the_kind(each) if kind else each.name for each in known]
    raise RecipeError(f"{name}: no such config file, nor a recipe; {nearest(short, names)}")


def copy_recipe(name: str | Path, folder: str | Path, kind: str = "") -> tuple[Path, ...]:
    """Copy a recipe, and those that it extends, to change them.

    Args:
        name: as of `find_recipe`.
        folder: where to; made if it is missing. Files keep their places to each other, as `extends` needs it:
            `ablations/queries_4.yaml` beside `paper.yaml`.
        kind: as of `find_recipe`.

    Returns:
        The files, the recipe first.

    Raises:
        RecipeError: as `find_recipe`; or another file is in the way.
    """
    chain = [find_recipe(name, kind)]
    while base := yaml.safe_load(chain[-1].read_text(encoding="utf-8")).get(EXTENDS):
        chain.append((chain[-1].parent / base).resolve())
    top = min((path.resolve().parent for path in chain), key=lambda path: len(path.parts))
    copies = {path: Path(folder) / path.resolve().relative_to(top) for path in chain}
    for path, copy in copies.items():
        if copy.exists() and copy.read_bytes() != path.read_bytes():
            raise RecipeError(f"{copy}: there is another file; move it, or copy to another folder")
    for path, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(copy, path.read_text(encoding="utf-8"))
    return tuple(copies.values())


@dataclass(frozen=True)
class ListSettings:
    """Listing the recipes that come with the package.

    Attributes:
        kind: only those of one kind.
    """

    kind: Literal["train", "data", "retrieval", "accelerate"] | None = None


def list_recipes(settings: ListSettings) -> tuple[Recipe, ...]:
    """The recipes of a kind, or all of them."""
    return recipes(settings.kind or "")


def show_recipes(found: tuple[Recipe, ...], settings: ListSettings) -> None:
    """Print a line for each."""
    print_table(("recipe", "what it is"), [(each.name, each.summary) for each in found])


@dataclass(frozen=True)
class CopySettings:
    """Copying a recipe, and those that it extends, to change them.

    Nothing is overwritten.

    Attributes:
        name: a recipe, as `comem configs` lists them.
        folder: where to.
    """

    name: str = option(positional=True)
    folder: Path = option(Path("."), positional=True, metavar="DIR")


def copy(settings: CopySettings) -> tuple[Path, ...]:
    """Copy a recipe; see `copy_recipe`."""
    return copy_recipe(settings.name, settings.folder)


def show_copies(copies: tuple[Path, ...], settings: CopySettings) -> None:
    """Print the new files."""
    for path in copies:
        print_line(str(path))


def _root() -> Path:
    """Beside the package's modules in an installed wheel, beside the package in the repository.

    Raises:
        RecipeError: in neither: the package was not installed whole.
    """
    for root in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if root.is_dir():
            return root
    raise RecipeError(f"{_PACKAGE / 'configs'}: the recipes are missing; install comem again")


def _summary(path: Path) -> str:
    """The first sentence of the comment at the top, on one line."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).split(". ")[0].split(": ")[0].rstrip(".:")


def _whole(recipe: Recipe) -> str:
    return recipe.name


def _behind_the_kind(recipe: Recipe) -> str:
    return recipe.name.split("/", 1)[1]


def _last_part(recipe: Recipe) -> str:
    return recipe.name.rsplit("/", 1)[1]
