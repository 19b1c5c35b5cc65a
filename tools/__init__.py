"""How the files that this repository ships were made; not part of the package."""
