"""Make the teaching hospital: synthetic notes, as in MIMIC-III."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from data_prep import hospital
from data_prep.config import CcsConfig
from data_prep.corpus_writer import replacing
from data_prep.prepare import Progress
from data_prep.sources import mimic3
from marn.progress import Progress as Bar
from marn.settings import Count, Location, settings


@settings
class Config(CcsConfig):
    """Set the options of `python -m data_prep teaching`."""

    out: Location = Path("data/teaching")
    """Folder of the corpus to write."""
    preset: Literal["tiny", "teaching", "mimic50", "full"] = "teaching"
    """Size of the hospital."""
    gzip: bool = False
    """Compress the raw tables with gzip."""
    slips: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Factor for the usual rate of misspellings; 0 for none."""
    boilerplate: Annotated[float, Field(ge=0, le=20)] = 1.0
    """Factor for the sentences that belong to no code of the stay, and for the denials."""
    workers: Count = 1
    """Number of processes that write notes; it does not change the corpus."""


def run(config: Config, progress: Progress) -> Path:
    """Write the hospital's tables to `config.out`/raw and prepare them as MIMIC-III's are.

    Unless splits are given, a preset with lists of admissions is split by them if `config.codes` is
    theirs, else by patient.
    """
    preset = config.preset
    with replacing(config.out) as partial:
        raw = partial / "raw"
        bar = _notes_written(progress)
        noise = {"slips": config.slips, "boilerplate": config.boilerplate}
        options: dict[str, Any] = {"workers": config.workers, "zipped": config.gzip, **noise}
        hospital.write(raw, preset, config.seed, bar, **options)
        more = "".join(f" --{name} {value:g}" for name, value in noise.items() if value != 1)
        command = f"python -m data_prep teaching --preset {preset}{more} --out data/{config.name}"
        has_lists = config.codes == hospital.PRESETS[preset].lists
        lists = config.splits or (raw if has_lists else None)
        mimic3.build(raw, partial, config, command, lists, progress=progress)
    return config.out


def _notes_written(progress: Progress) -> Callable[[int, int], None]:
    """Report the number of notes written: in a terminal as a bar, otherwise a line per thousand."""
    bar: Bar | None = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or Bar(total, stream=sys.stderr, unit=" notes")
        thousands = bar.done // 1000
        bar.step("hospital", done - bar.done)
        if done // 1000 > thousands and bar.bar is None:
            progress(f"hospital: {min(done, total):,} of {total:,} notes")

    return report
