"""The run folder: one configuration for good."""

from __future__ import annotations

from pathlib import Path

from comem.config import as_dict, from_values, read_yaml, save_config
from comem.io.files import read_json, sha256_of, write_json
from comem.io.run_folder import differences
from comem.training.checkpoint import checkpoints
from comem.training.settings import FREE_KEYS, TrainSettings

#: Options of earlier versions, with what switched them on.
_GONE = {"distill": ("weight",), "distractors": ("probability", "alone")}


def recorded(folder: Path, resume: bool = False) -> TrainSettings:
    """What a run was started with; of options that are gone, what they did is in its weights.

    Args:
        folder: the run folder.
        resume: the run is to go on, so none of these may have been on.

    Raises:
        ConfigError: no config.yaml, or a broken one.
        ValueError: the run was started with an option that is gone.
    """
    path = folder / "config.yaml"
    values = read_yaml(path)
    for key, switches in _GONE.items():
        option = values.pop(key, None) or {}
        if resume and any(option.get(switch) for switch in switches):
            raise ValueError(
                f"{path}: the run was started with {key!r}, which is gone: merge it as it is (comem merge), "
                "or resume it with the version that began it"
            )
    return from_values(TrainSettings, values, str(path))


def _parts(file: str) -> list[Path]:
    """The files that a YAML mixture is made of."""
    if Path(file).suffix not in (".yaml", ".yml"):
        return []
    from comem.benchmarks.llava_video import listed

    return listed(Path(file))


def settle(folder: Path, settings: TrainSettings) -> None:
    """Write the configuration into a new folder, or check that the folder's is the same, data included.

    A run that came to no checkpoint has nothing to lose, so its folder counts as new.

    Raises:
        ValueError: listing the keys that differ and that would change the result; or naming a data file
            whose content has changed.
    """
    config, data = folder / "config.yaml", folder / "data.json"
    files = {key: file for key in ("data", "knowledge", "eval_data") if (file := getattr(settings, key))}
    files |= {f"{key}/{part}": str(part) for key, file in files.items() for part in _parts(file)}
    digests = {key: sha256_of(file) for key, file in files.items()}  # another order of lines is another run
    begun = bool(checkpoints(folder / "checkpoints"))
    if begun and config.exists():
        there = as_dict(recorded(folder, resume=True))
        if differing := differences(there, as_dict(settings), FREE_KEYS):
            lines = "\n".join(f"  {line}" for line in differing)
            raise ValueError(
                f"{folder} holds a run of another configuration:\n{lines}\n"
                "give the same values to resume it, or another folder (output=DIR)"
            )
    if begun and data.exists():
        noted = read_json(data)
        if changed := [files[key] for key in digests if noted.get(key) != digests[key]]:
            raise ValueError(
                f"{', '.join(changed)} has changed since the run in {folder} was started; "
                "put the old file back to resume it, or train in another folder (output=DIR)"
            )
    write_json(data, digests)
    save_config(settings, config)
