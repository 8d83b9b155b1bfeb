"""Dashboards of W&B from an experiment: a workspace to explore its cells, and a report with its claim.

Offline they are JSON. Online they are saved once: they are queries, so they show what arrives later.
They find runs by tags, of which a cell has one per report that shows it. Runs are not grouped: panels would
show a group's mean in place of its cells.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from sparsemm.results.files import read_json, to_line, write_atomically
from sparsemm.results.wandb_content import tags_of

LINES = ("model", "method", "budget", "rho", "task")  # of the parallel coordinates
LOG = ("budget",)  # keys whose axis is logarithmic
BOARDS = {"workspace": "wandb-workspace.json", "report": "wandb-report.json"}  # files
AnyBoard = TypeVar("AnyBoard", bound=Any)  # a dataclass with `report`, `entity`, `workspace()` and `page()`


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A table's curves in the report's run."""

    model: str
    task: str
    metrics: Sequence[str]  # a curve each, as `wandb_content.curve_metrics` names them


@dataclass(frozen=True, kw_only=True)
class Board:
    """What the dashboards of a report are about."""

    report: str  # cells have it among their tags
    title: str
    sentence: str
    key: str  # what the cells vary, besides the method: budget, rho, a mask's share
    places: Sequence[Curves]
    project: str
    entity: str | None

    def workspace(self) -> Any:
        """Return wandb-workspaces' Workspace."""
        return _workspace(self)

    def page(self) -> Any:
        """Return wandb-workspaces' Report."""
        return _report(self)


def to_json(board: AnyBoard) -> dict[str, str]:
    """Return {workspace, report} as the JSON that W&B stores; nothing is asked of the network."""
    with _silence():
        return {
            "workspace": board.workspace()._to_model().model_dump_json(by_alias=True, indent=1),
            "report": board.page()._to_model().model_dump_json(by_alias=True, indent=1),
        }


def save(board: AnyBoard) -> dict[str, str]:
    """Save both in W&B and return their addresses; they show runs that arrive later too."""
    import wandb

    with _silence():
        entity = board.entity or os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity  # as of runs
        board = replace(board, entity=entity)
        workspace, report = board.workspace(), board.page()
        workspace.save()
        report.save()
        return {"workspace": str(workspace.url), "report": str(report.url)}


def save_once(board: AnyBoard, path: Path) -> str:
    """Save the dashboards that are not in W&B yet; say where they are.

    Args:
        board: what they are about.
        path: remembers what was saved.
    """
    known = read_json(path) or {}
    key = f"{board.entity or ''}/{board.project}/{board.report}"
    if key not in known:
        try:
            known[key] = save(board)
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            return f"\nW&B: the dashboards are not saved ({first}). The next report tries again."
        write_atomically(path, to_line(known))
    return "".join(f"\n{kind}: {address}" for kind, address in known[key].items())


def _workspace(board: Board) -> Any:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(name="Curves", is_open=True, panels=[_curves(board, place) for place in board.places]),
        ws.Section(name="Score", is_open=True, panels=_panels(board, "all cells")),
        ws.Section(
            name="What is kept",
            is_open=True,
            panels=[
                wr.ScatterPlot(
                    title="Score against entries per head",
                    x=wr.SummaryMetric("entries_per_head"),
                    y=wr.SummaryMetric("score"),
                    log_x=True,
                ),
                wr.BarPlot(
                    title="Share of the prompt that is kept",
                    metrics=[wr.SummaryMetric("kept_share")],
                    groupby=wr.Config("method"),
                ),
            ],
        ),
        ws.Section(name="Differences", panels=[wr.RunComparer(diff_only=True)]),
    ]
    return ws.Workspace(
        entity=board.entity or "",
        project=board.project,
        name=f"sparsemm: {board.report}",
        sections=sections,
        auto_generate_panels=False,
        runset_settings=ws.RunsetSettings(filters=[ws.Tags().isin(tags_of(board.report))]),
    )


def _report(board: Board) -> Any:
    import wandb_workspaces.reports.v2 as wr

    def runset(name: str, job_type: str, *tags: str) -> Any:
        tagged = [f"Tags() in ['{_quoted(tag)}']" for tag in tags_of(board.report, *tags)]
        filters = " and ".join([*tagged, f"Metric('JobType') = '{job_type}'"])
        return wr.Runset(name=name, filters=filters)  # of the report's project

    tables = runset("report", "report")
    blocks: list[Any] = [wr.P(board.sentence), wr.TableOfContents()]
    for place in board.places:
        name = f"{place.task}, {place.model}"
        cells = runset(name, "cell", place.model, place.task)
        panels = [_curves(board, place), *_panels(board, name)]
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[cells, tables], panels=panels)]
    blocks += [
        wr.H2("Tables, curves and head maps"),
        wr.PanelGrid(runsets=[tables], panels=[wr.WeavePanelSummaryTable(table_name="results")]),
    ]
    return made_report(board, blocks)


def made_report(board: Any, blocks: Sequence[Any]) -> Any:
    """Return wandb-workspaces' Report of a board (title, sentence, project, entity) and its blocks."""
    import wandb_workspaces.reports.v2 as wr

    return wr.Report(
        project=board.project,
        entity=board.entity or "",
        title=board.title,
        description=board.sentence[:250],
        blocks=list(blocks),
        width="fluid",
    )


def _curves(board: Board, place: Curves) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=f"Score against {board.key}: {place.task}, {place.model}",
        x=board.key,
        y=list(place.metrics),
        log_x=board.key in LOG,
        title_x=board.key,
        title_y="score",
    )


def _panels(board: Board, where: str) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    columns: list[Any] = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in LINES]
    if board.key not in LINES:
        columns.append(wr.ParallelCoordinatesPlotColumn(wr.Config(board.key)))
    columns.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("score")))
    return [
        wr.ScatterPlot(
            title=f"Every cell's score against {board.key}: {where}",
            x=wr.Config(board.key),
            y=wr.SummaryMetric("score"),
            log_x=board.key in LOG,
        ),
        wr.BarPlot(
            title=f"Score by method: {where}",
            metrics=[wr.SummaryMetric("score")],
            groupby=wr.Config("method"),
        ),
        wr.ParallelCoordinatesPlot(title=f"Every cell: {where}", columns=columns),
    ]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


@contextlib.contextmanager
def _silence() -> Any:
    """The library talks on the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
