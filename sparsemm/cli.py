"""The command line: verbs, each of which is one Hydra application with other arguments."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

import hydra
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparsemm.bench.settings import as_lists
from sparsemm.config import nearest, register_schemas
from sparsemm.help import HELP, VERBS
from sparsemm.lazy import read_later
from sparsemm.results.files import StorageError
from sparsemm.sweep.errors import CellsFailed, UnusableConfiguration, explain
from sparsemm.sweep.jobs import quoted
from sparsemm.sweep.status import program

COMPLETION = ("-sc", "--shell-completion", "--shell_completion")
ONCE = ("--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--run", "-r", *COMPLETION)  # no sweep
MULTIRUN = ("--multirun", "-m")
SECTION_KEY = re.compile(r"(model|method|scorer|allocator|mask|task|data)\.[\w.]+")
EXPERIMENT = re.compile(r"\+{0,2}experiment=(\w+)")
OPEN_KEYS = re.compile(r"^hydra\.launcher\.(sbatch|environment)(?=[.=])")  # theirs are any keys
PROTECTED = re.compile(r"[,()]")  # sweeps, functions, and lists of several values go as they are
FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's switch: raise errors instead of printing them and exiting


def main() -> None:
    """Entry point of `sparsemm`; exits 0 all done, 1 something failed, 2 unusable configuration."""
    read_later("torch")
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Carry out one command and return its exit code."""
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(HELP)
        return 0
    if arguments[0] == "--version":
        print(f"sparsemm {version('sparsemm')}")
        return 0
    if arguments[0] in COMPLETION:
        return _complete(arguments)
    verb, *rest = arguments
    if verb not in VERBS:
        return _refuse(_unknown_verb(verb, rest))
    if refused := _other_verb(verb, rest):
        return _refuse(refused)
    if verb != "run" and any(argument.startswith("hydra/sweeper=") for argument in rest):
        return _refuse(
            f"hydra/sweeper: {verb} works with the project's own sweeper. Leave hydra/sweeper out."
        )
    if any(argument in ("--help", "-h") for argument in rest):
        print(VERBS[verb] + "\n")
        rest = [argument for argument in rest if argument not in ("--help", "-h")] + ["--help"]
    if verb == "bench":
        return _call([one for one in as_lists(rest) if one not in MULTIRUN], "bench")
    if verb == "heads" and rest[:1] == ["compare"]:
        return _compare(rest[1:])
    if verb == "heads" and rest[:1] == ["import"]:
        if len(rest) < 2 or "=" in rest[1]:
            return _refuse("heads import: name the file. Try: sparsemm heads import FILE model=NAME")
        rest = [f"import_file={quoted(rest[1])}", *rest[2:]]
    if verb == "retry" and rest[:1] in (["all"], ["failed"]):
        verb, rest = "retry_all" if rest[0] == "all" else "retry", rest[1:]
    return _call(hydra_arguments(verb, rest))


def hydra_arguments(verb: str, rest: Sequence[str]) -> list[str]:
    """What a verb means to Hydra: a multirun of our sweeper, or one look at the configuration."""
    rest = [argument.removeprefix("+") if argument.startswith("+smoke=") else argument for argument in rest]
    rest = [OPEN_KEYS.sub(r"++\g<0>", argument) for argument in rest]
    if any(argument.split("=")[0] in ONCE for argument in rest):
        return [argument for argument in rest if argument not in MULTIRUN]
    action = [] if verb == "run" else [f"hydra.sweeper.action={verb}"]
    return ["--multirun", *action, *(one_choice(argument) for argument in rest if argument not in MULTIRUN)]


def one_choice(override: str) -> str:
    """`mask.share=0.2` as a sweep of one value: the points must have the key, not the default mask."""
    key, equals, value = override.partition("=")
    if not equals or not SECTION_KEY.fullmatch(key) or PROTECTED.search(value) or not value:
        return override
    return f"{key}=choice({value})"


def register() -> None:
    """Make the schemas and the sweeper known to Hydra."""
    plugins = Plugins.instance()  # first: its scan of installed plugins may execute our module again
    from hydra_plugins.sparsemm import SlurmLauncher, SparseMMSweeper

    plugins.register(SparseMMSweeper)
    plugins.register(SlurmLauncher)
    register_schemas()


def _call(arguments: Sequence[str], root: str = "run") -> int:
    from sparsemm.sweep.jobs import run_composed

    register()
    task = _bench if root == "bench" else run_composed
    sys.argv = [sys.argv[0], *arguments]
    outer = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        hydra.main(config_path="pkg://sparsemm.conf", config_name=root, version_base="1.3")(task)()
    except SystemExit as stop:
        return int(stop.code or 0)
    except UnusableConfiguration as error:
        return _refuse(str(error))
    except CellsFailed as error:
        print(f"sparsemm: {error}", file=sys.stderr)
        return 1
    except StorageError as error:
        print(f"sparsemm: {error}", file=sys.stderr)
        return 1
    except (HydraException, OmegaConfBaseException) as error:
        if outer == "1":
            raise
        return _refuse(f"Nothing was started: {_explained(error, root)}")
    except KeyboardInterrupt:
        on = (
            "What was measured is kept."
            if root == "bench"
            else "The same command again goes on where it was."
        )
        print(f"\nsparsemm: stopped. {on}", file=sys.stderr)
        return 130
    finally:
        os.environ.pop(FULL_ERROR)
        if outer is not None:
            os.environ[FULL_ERROR] = outer
    return 0


def _bench(config: DictConfig) -> None:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its profiler warns of what was there before
    from sparsemm.bench.main import run as bench
    from sparsemm.sweep.progress import progress
    from sparsemm.sweep.tracking import track_bench, tracking_of

    experiment = HydraConfig.get().runtime.choices.get("experiment")
    tracking = tracking_of(config)
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    asked = {str(key): value for key, value in values.items() if key != "tracking"}
    bar = partial(progress, what="bench", unit="measurement")
    try:
        folder, failed = bench(asked, experiment, bar)
        print(track_bench(folder, tracking, experiment), end="")
    except ValueError as error:
        sys.exit(_refuse(str(error)))  # an error would make Hydra print a line of its own
    if failed:
        print(f"sparsemm: {failed} measurements failed; bench.json says why.", file=sys.stderr)
        sys.exit(1)


def _explained(error: Exception, root: str) -> str:
    with initialize_config_module("sparsemm.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        defaults = loader.load_configuration(root, [], RunMode.MULTIRUN)
        return explain(error, defaults, loader if root == "run" else None, root)  # bench takes no groups


def _compare(files: Sequence[str]) -> int:
    from sparsemm.sweep.search import compare_files

    named = [file for file in files if not file.startswith("out=")]
    pictures = [file.removeprefix("out=") for file in files if file.startswith("out=")]
    if len(named) < 2:
        return _refuse("heads compare: name two files. Try: sparsemm heads compare A.json B.json")
    try:
        print(compare_files(named, pictures[-1] if pictures else "outputs/heads/compare.png"))
    except ValueError as error:
        return _refuse(str(error))
    return 0


def _complete(arguments: Sequence[str]) -> int:
    """Complete a verb, or what follows it: Hydra knows nothing of verbs, so the line loses its verb."""
    line = os.environ.get("COMP_LINE", "")
    program, _, after = line.partition(" ")
    words = after.split(" ")
    if arguments[1:] and arguments[1].startswith("query=") and len(words) == 1:
        print("\n".join(verb for verb in VERBS if verb.startswith(words[0])))
        return 0
    if words[0] in VERBS:
        os.environ["COMP_LINE"] = f"{program} {' '.join(words[1:])}"
    return _call(arguments, "bench" if words[0] == "bench" else "run")


def _other_verb(verb: str, rest: Sequence[str]) -> str | None:
    """Why this verb cannot have the experiment that is asked for; its composition would say less."""
    names = [match[1] for argument in rest if (match := EXPERIMENT.fullmatch(argument))]
    if not names:
        return None
    from sparsemm.sweep.claims import refuse_claim

    try:
        refuse_claim(names[-1], verb)
    except UnusableConfiguration as error:
        return str(error)
    return None


def _unknown_verb(verb: str, rest: Sequence[str]) -> str:
    if "=" in verb:
        return f"{verb}: a verb comes first. Try: {program()} run {shlex.join([verb, *rest])}"
    known = f"There are: {', '.join(VERBS)}. See {program()} --help."
    return f"{verb}: there is no such verb.{nearest(verb, VERBS)} {known}"


def _refuse(message: str) -> int:
    print(f"sparsemm: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
