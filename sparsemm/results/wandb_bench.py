"""Speed and memory in W&B: a run of its own per bench.json, and the dashboard of the paper's Figure 6."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsemm.results.efficiency import DECODES, MEASURES, OURS, Bench, Measured, Place, Way, places, read
from sparsemm.results.files import write_atomically
from sparsemm.results.wandb_boards import BOARDS, made_report, save_once, to_json
from sparsemm.results.wandb_content import RunContent, run_id
from sparsemm.results.wandb_runs import Mirror
from sparsemm.results.wandb_settings import Tracking
from sparsemm.results.wandb_sync import sync

GROUP = "bench"  # of the runs, their tag, and in their configuration
KEYS = {"decode": "ms_per_token", "memory": "peak_gb"}  # of the metrics
TITLES = {"decode": "Milliseconds per token", "memory": "Peak memory, GB"}
UNNAMED = ("out",)  # settings that say nothing of what was measured
FILES = ("bench.json", "bench.csv", "figure6.md", "figure6.csv", "figure6.png", "figure6.svg")


def bench_run(bench: Bench, suffix: str = "") -> RunContent:
    """Return the run of a bench.json: every result in a table, the figure's curves over the prompt's length.

    The same settings on the same device are the same run: what is measured again updates it.
    """
    settings = {key: value for key, value in bench["settings"].items() if key not in UNNAMED}
    machine = dict(bench["machine"])
    found = places([bench])
    shapes = list(dict.fromkeys(str(one["shape"]) for one in bench["results"]))
    measures = list(dict.fromkeys(str(one["measure"]) for one in bench["results"]))
    same = json.dumps([settings, machine.get("device")], sort_keys=True)
    columns = list(dict.fromkeys(key for one in bench["results"] for key in one))
    rows = [[_plain(one.get(key)) for key in columns] for one in bench["results"]]
    return RunContent(
        id=run_id(f"bench-{hashlib.sha256(same.encode()).hexdigest()[:16]}", suffix),
        name=f"bench: {', '.join(shapes)}, {machine.get('device', '?')}"[:120],
        report=GROUP,
        job_type="bench",
        tags=tuple(word[:64] for word in (*shapes, "GPU" if machine.get("gpu") else "CPU")),
        config={
            "report": GROUP,
            "shapes": shapes,
            "measures": measures,
            "settings": settings,
            "machine": machine,
        },
        summary={"results": len(rows)},
        tables={"results": (columns, rows)},
        history=_history(found),
        step="prompt_tokens",
    )


def metric(measure: str, shape: str, way: Way) -> str:
    """Return a curve's name in W&B: llava_next_vicuna_7b/ms_per_token/sparsemm_256_graph."""
    words = [*([way.way] if way.way != OURS else []), way.method]
    words += [str(one) for one in (way.budget, way.decode) if one is not None]
    return f"{shape}/{KEYS[measure]}/{'_'.join(words)}"


def _history(found: Mapping[Place, Measured]) -> list[dict[str, Any]]:
    points: dict[int, dict[str, Any]] = {}
    for place, measured in found.items():
        name = metric(place.measure, place.shape, place.way)
        points.setdefault(place.prompt_tokens, {})[name] = measured.value
    return [{"prompt_tokens": prompt, **points[prompt]} for prompt in sorted(points)]


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


@dataclass(frozen=True, kw_only=True)
class BenchBoard:
    """The dashboard of Figure 6: a chart per shape and measure, over the runs of the benchmark."""

    title: str
    sentence: str
    shapes: Sequence[str]
    methods: Sequence[tuple[str, int | None]]  # method, budget
    project: str
    entity: str | None
    report: str = "figure6_efficiency"

    def workspace(self) -> Any:
        """Return wandb-workspaces' Workspace."""
        import wandb_workspaces.workspaces as ws

        return ws.Workspace(
            entity=self.entity or "",
            project=self.project,
            name=f"sparsemm: {self.report}",
            sections=[
                ws.Section(name=shape, is_open=True, panels=self._panels(shape)) for shape in self.shapes
            ],
            auto_generate_panels=False,
            runset_settings=ws.RunsetSettings(filters=[ws.Tags().isin([GROUP])]),
        )

    def page(self) -> Any:
        """Return wandb-workspaces' Report."""
        import wandb_workspaces.reports.v2 as wr

        runs = wr.Runset(name="bench", filters=f"Tags() in ['{GROUP}']")
        blocks: list[Any] = [wr.P(self.sentence), wr.TableOfContents()]
        for shape in self.shapes:
            blocks += [wr.H2(shape), wr.PanelGrid(runsets=[runs], panels=self._panels(shape))]
        blocks += [
            wr.H2("Every result"),
            wr.PanelGrid(runsets=[runs], panels=[wr.WeavePanelSummaryTable(table_name="results")]),
        ]
        return made_report(self, blocks)

    def _panels(self, shape: str) -> list[Any]:
        import wandb_workspaces.reports.v2 as wr

        return [
            wr.LinePlot(
                title=f"{TITLES[measure]}: {shape}",
                x="prompt_tokens",
                y=[
                    metric(measure, shape, Way(OURS, method, budget, decode))
                    for method, budget in self.methods
                    for decode in (DECODES if measure == "decode" else (None,))
                ],
                log_x=True,
                title_x="prompt, tokens",
                title_y=MEASURES[measure][2],
            )
            for measure in MEASURES
        ]


def track(
    out: Path, root: Path, tracking: Tracking, board: BenchBoard | None = None, send: str = "sparsemm sync"
) -> str:
    """Copy <out>/bench.json and what was drawn from it to W&B; return what to say.

    W&B is a mirror: whatever goes wrong is said and stops nothing.

    Args:
        out: the folder of a bench.json.
        root: of the store whose <root>/wandb gets the copy.
        tracking: offline or online.
        board: its JSON is written beside the files; online it is saved once.
        send: the command that sends what waits there.
    """
    try:
        return _track(out, Mirror(root.absolute(), tracking), board, send)
    except Exception as error:  # whatever W&B does, the files are written
        first = (str(error).splitlines() or [""])[0]
        return f"W&B: no copy ({type(error).__name__}: {first}). {out} has everything."


def _track(out: Path, mirror: Mirror, board: BenchBoard | None, send: str) -> str:
    out, tracking = out.absolute(), mirror.tracking  # W&B's service has a working directory of its own
    (bench,) = read([out / "bench.json"])
    files = {name: out / name for name in FILES if (out / name).is_file()}
    written = mirror.write([bench_run(bench, tracking.suffix)], lambda *_: [], files=files)
    if board:
        for kind, text in to_json(board).items():
            write_atomically(out / BOARDS[kind], text + "\n")
    said = f"W&B: {len(written)} of 1 runs are new or changed, in {mirror.folder}"
    if tracking.mode == "offline":
        return f"{said}\nSend them where there is internet: {send}"
    sent = sync(mirror.folder)
    saved = save_once(board, mirror.folder / "boards.json") if board and not sent.failed else ""
    return f"{said}\n{sent}{saved}"
