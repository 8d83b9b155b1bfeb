"""A report and its copy in W&B. W&B is a mirror: whatever goes wrong there is said once and stops nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsemm.results.files import write_atomically
from sparsemm.results.page import Material
from sparsemm.results.store import Store
from sparsemm.results.tables import Claim, build_tables, missing_labels
from sparsemm.results.wandb_bench import bench_run
from sparsemm.results.wandb_boards import BOARDS, Board, Curves, save_once, to_json
from sparsemm.results.wandb_content import RunContent, cell_run, curve_metrics, report_run
from sparsemm.results.wandb_runs import Mirror
from sparsemm.results.wandb_settings import Tracking
from sparsemm.results.wandb_sync import Sent, offline_runs, sync
from sparsemm.sweep.claims import experiment_claim
from sparsemm.sweep.compose import Composer
from sparsemm.sweep.errors import CellsFailed, UnusableConfiguration
from sparsemm.sweep.jobs import labels_of
from sparsemm.sweep.pictures import material_of
from sparsemm.sweep.progress import progress
from sparsemm.sweep.published import Published
from sparsemm.sweep.status import Labels, Subject

Results = list[dict[str, Any]]
FILES = ("table.md", "table.csv", "table.tex", "figure.png", "figure.svg", "page.html")
PATIENCE_S = 2.0  # copying or sending that takes longer shows how far it is


def send(store: Store) -> None:
    """Send what waits for W&B, and say what went up.

    Raises:
        UnusableConfiguration: wandb is not installed, or nobody is logged in.
        CellsFailed: something could not be sent.
    """
    try:
        done = _sent(store.root / "wandb")
    except ValueError as error:
        raise UnusableConfiguration(str(error)) from error
    print(done)
    if done.failed:
        raise CellsFailed(f"{len(done.failed)} runs were not sent.")


def _sent(folder: Path) -> Sent:
    waiting, _ = offline_runs(folder)
    with progress(len(waiting), 0, "W&B: sending", "run", PATIENCE_S) as bar:
        return sync(folder, tried=bar.update)


@dataclass(frozen=True)
class Reporting:
    """Reports of one store."""

    store: Store
    composer: Composer
    tracking: Tracking

    def report(self, subject: Subject) -> str:
        """Write the report, and its copy in W&B where that is asked for; return what to print."""
        from sparsemm.results.report import write_report

        claim = experiment_claim(subject.experiment)
        beside = labels_of(self.store, claim.beside) if claim and claim.beside else {}
        labels, folder = list(subject.labels.values()), self.store.reports / subject.name
        found, found_beside = self._results(subject.labels), self._results(beside)
        if (claim and claim.paper) or self.tracking.mode != "none":  # nothing else asks
            published = Published(self.composer)
            found, found_beside = published.marked(found), published.marked(found_beside)
        material = material_of(self.store, found, subject.overrides)
        left = subject.labels.keys() - {result["fingerprint"] for result in found}
        failures = [(subject.labels[name], why) for name, why in self.store.failures(left).items()]
        text = write_report(subject.name, found, labels, folder, claim, found_beside, material, failures)
        if self.tracking.mode == "none":
            return text
        try:
            said = self._mirror(subject.name, claim, found, found_beside, labels, material)
        except Exception as error:  # whatever W&B does, the report is written
            first = (str(error).splitlines() or [""])[0]
            said = f"W&B: no copy ({type(error).__name__}: {first}). The store has everything: report again."
        return f"{text}{said}\n"

    def _results(self, labels: Labels) -> Results:
        """The finished results of some cells, under the labels that they have here."""
        results = self.store.results(labels)
        return [{**result, "label": labels[result["fingerprint"]]} for result in results]

    def _mirror(
        self,
        name: str,
        claim: Claim | None,
        found: Results,
        beside: Results,
        labels: Sequence[Mapping[str, Any]],
        material: Material,
    ) -> str:
        folder, tracking = self.store.reports / name, self.tracking
        tables = build_tables(found, labels, claim, beside)
        missing = len(missing_labels([result["label"] for result in found], labels))
        heading = claim.title if claim else name
        mirror = Mirror(self.store.root, tracking)
        written = mirror.write(self._cells(name, found), material.images)
        whole = report_run(name, heading, tables, found, missing, tracking.suffix)
        files = {file: folder / file for file in FILES if (folder / file).is_file()}
        written += mirror.write([whole], material.images, material.head_maps, files)
        benches = [bench_run(bench, tracking.suffix) for bench in material.benches]
        written += mirror.write({run.id: run for run in benches}.values(), material.images)  # the newest
        board = Board(
            report=name,
            title=heading,
            sentence=claim.sentence if claim else "",
            key=claim.columns if claim else "budget",
            places=[
                Curves(model=table.model, task=table.task, metrics=list(curve_metrics(table).values()))
                for table in tables
            ],
            project=tracking.project,
            entity=tracking.entity,
        )
        for kind, text in to_json(board).items():
            write_atomically(folder / BOARDS[kind], text + "\n")
        total = len(found) + 1 + len({run.id for run in benches})
        said = f"W&B: {len(written)} of {total} runs are new or changed, in {mirror.folder}"
        if tracking.mode == "offline":
            return f"{said}\nSend them where there is internet: sparsemm sync"
        sent = _sent(mirror.folder)
        saved = "" if sent.failed else save_once(board, mirror.folder / "boards.json")  # a cut line stays cut
        return f"{said}\n{sent}{saved}"

    def _cells(self, name: str, found: Results) -> Iterator[RunContent]:
        with progress(len(found), 0, "W&B: copying", "run", PATIENCE_S) as bar:
            for result in found:
                records = self.store.cell(result["fingerprint"]).samples().records
                yield cell_run(result, name, records, self.tracking.samples, self.tracking.suffix)
                bar.update()
