"""Job files as SLURM arrays: within its limit, and cells behind the head searches that they wait for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsemm.results.files import read_json
from sparsemm.sweep.submission import Job, Part

Kind = tuple[bool, tuple[str, ...]]  # a head search? the head-score files that it writes, or waits for


def arrays(
    folder: Path,
    files: Sequence[Path],
    workers: int,
    most: int,
    in_queue: Callable[[Mapping[str, Any]], Sequence[Part]] = lambda _: (),
) -> list[Part]:
    """The arrays of a sweep, searches in front.

    Args:
        folder: of the sweep.
        files: job files.
        workers: of each job; as many files go together.
        most: jobs of one array.
        in_queue: the arrays (which have ids) of a head search that was submitted before; they are taken over.
    """
    kinds: dict[Kind, list[tuple[Path, Mapping[str, Any]]]] = {}
    for file in files:
        content = read_json(file) or {}
        kinds.setdefault(_kind(content), []).append((file, content))
    parts: list[Part] = []
    writers: dict[str, list[int]] = {}  # head-score file -> numbers of the arrays that find it
    for (is_search, scores), found in sorted(kinds.items(), key=lambda one: not one[0][0]):
        if is_search and (known := in_queue(found[0][1]["search"])):
            whole = Job.of(found)
            writers[scores[0]] = list(range(len(parts), len(parts) + len(known)))
            parts += [replace(part, jobs=(whole,) * len(part.jobs), after=()) for part in known]
            continue
        after = () if is_search else tuple(number for file in scores for number in writers.get(file, ()))
        jobs = [Job.of(found[start : start + workers]) for start in range(0, len(found), workers)]
        for start in range(0, len(jobs), most):
            number = len(parts)
            place = folder / "slurm" / str(number)
            mine = tuple(jobs[start : start + most])
            parts.append(Part(f"{folder.name}.{number}", place, mine, after=after, search=is_search))
            if is_search:
                writers.setdefault(scores[0], []).append(number)
    return parts


def _kind(content: Mapping[str, Any]) -> Kind:
    if "search" in content:
        return True, (content["search"]["out"],)
    return False, tuple(content.get("awaits", ()))
