"""Says whether a version of transformers needs a patch for CoMEM.

Usage: python patch/check_version.py [VERSION]      (default: the installed one)

Exit code: 0 no patch needed, 1 unsupported version, 2 not a version or transformers is not installed.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys

LOWEST, BELOW = (5, 17), (6, 0)  # the range of pyproject.toml; tests/test_patch.py keeps them equal
AUTHORS = (4, 49)


def parse(version: str) -> tuple[int, int]:
    """Major and minor number.

    Raises:
        ValueError: the text does not start like a version.
    """
    match = re.match(r"\s*v?(\d+)\.(\d+)", version)
    if match is None:
        raise ValueError(f"{version!r} is not a version; give it like 5.23.0")
    return int(match[1]), int(match[2])


def verdict(version: str) -> tuple[bool, str]:
    """Whether CoMEM runs on this version as it is, and one sentence that says so."""
    number = parse(version)
    if LOWEST <= number < BELOW:
        return True, f"transformers {version}: supported, no patch needed"
    if number == AUTHORS:
        reason = "the version of the paper's code, which replaced a modeling file (see patch/README.md)"
    elif number < LOWEST:
        reason = "too old: its Qwen-VL classes are laid out differently"
    else:
        reason = "newer than what CoMEM was tested with"
    supported = f"install >={LOWEST[0]}.{LOWEST[1]},<{BELOW[0]}; no patch is offered"
    return False, f"transformers {version}: {reason}; {supported}"


def main(arguments: list[str]) -> int:
    """Print the verdict; the exit code is in the module's docstring."""
    try:
        version = arguments[0] if arguments else importlib.metadata.version("transformers")
        good, sentence = verdict(version)
    except importlib.metadata.PackageNotFoundError:
        print("transformers is not installed: bash scripts/setup.sh", file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(sentence)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
