"""The text of --help. Its examples work when pasted."""

HELP = """\
sparsemm: which KV-cache compression keeps a vision-language model's quality, at which budget?

verbs
  run      run a grid of cells and show its table; run it again to go on where it stopped
  plan     the cells of a grid, how many are done, the jobs and the time they need; starts nothing
  prefetch bring a grid's weights and data to this machine's disk
  heads    find the visual heads of a model; import and compare head-score files
  status   what is done, running, failed and pending, on this machine and in SLURM
  cancel   cancel what waits or runs in SLURM
  retry    run again what failed
  report   the table, the figure and the page of a grid; with tracking=offline or online a copy in W&B
  bench    milliseconds for a token, peak memory and more, methods side by side
  sync     send what waits for W&B, such as from a login node

examples
  sparsemm run +experiment=quickstart                            a small table in minutes
  sparsemm plan method=full,snapkv,sparsemm budget=64,128        what would run
  sparsemm run method=full,snapkv,sparsemm budget=64,128 task.limit=20
  sparsemm run method=sparsemm budget=25% rho=0.1,0.3 task.limit=20
  sparsemm run method=snapkv scorer=recent task.limit=20         another scorer in a known method
  sparsemm status                                                the last sweep
  sparsemm report +experiment=quickstart

sparsemm <verb> --help        every setting and its default
sparsemm run --cfg job        the configuration that a command would use
eval "$(sparsemm -sc install=bash)"   shell completion"""

_GRID = """\
A comma makes a grid: budget=64,128 method=full,sparsemm. `+experiment=<name>` brings a grid of its own."""

VERBS = {
    "run": f"""\
sparsemm run [key=value ...]: run every cell that has no result yet, then show the table.
{_GRID}
Exit code: 0 all done, 1 something failed, 2 the configuration cannot be used and nothing was started.

examples
  sparsemm run +experiment=quickstart
  sparsemm run method=full,sparsemm budget=64,25% task.limit=20
  sparsemm run +experiment=quickstart hydra/launcher=slurm hydra.launcher.partition=gpu    submit, and return
  sparsemm run --cfg job method=sparsemm""",
    "plan": f"""\
sparsemm plan [key=value ...]: the cells, how many are done, the jobs and their time. Starts nothing.
{_GRID}

examples
  sparsemm plan +experiment=quickstart
  sparsemm plan method=sparsemm budget=64,128 rho=0.1,0.3,0.5""",
    "prefetch": f"""\
sparsemm prefetch [key=value ...]: download the weights and the data of a grid into the hub's cache, and
record the revisions that were found in outputs/prefetched.json. Files that have arrived are not loaded again.
Run it where there is internet, such as a login node; runs read the same disk and need no network.
{_GRID}

examples
  sparsemm prefetch +experiment=table3_main
  sparsemm prefetch model=qwen2_vl_7b task=textvqa""",
    "heads": """\
sparsemm heads [key=value ...]: let a model read images aloud, and score every query head by how often it
looks at what is being read (arXiv:2506.05344). Writes outputs/heads/<model>.json, which method=sparsemm uses,
and pictures with a page that shows them, outputs/heads/<model>/page.html; shards=8 shares images; a search
that was stopped goes on. data=synthdog is the paper's; synthetic pages need no download.

examples
  sparsemm heads model=tiny samples=20
  sparsemm heads model=qwen2_vl_7b data=synthdog samples=1000
  sparsemm heads import visual_heads.json model=llava_next_vicuna_7b    a file of the paper's code
  sparsemm heads compare outputs/heads/a.json outputs/heads/b.json""",
    "status": f"""\
sparsemm status [key=value ...]: what is done, running, failed and pending; without a grid, of the last sweep.
{_GRID}

examples
  sparsemm status
  sparsemm status +experiment=quickstart
  sparsemm status +experiment=quickstart watch=true""",
    "cancel": f"""\
sparsemm cancel [key=value ...]: cancel the SLURM jobs that have cells of a grid; without one, of the last
sweep. What they have answered is kept: the sweep's command, or retry, goes on from there.
{_GRID}

examples
  sparsemm cancel
  sparsemm cancel +experiment=quickstart""",
    "retry": f"""\
sparsemm retry [failed|all] [key=value ...]: run again what failed, or all that has no result and is not in
the queue; without a grid, of the last sweep. What was answered is kept.
{_GRID}

examples
  sparsemm retry
  sparsemm retry all hydra/launcher=slurm""",
    "report": f"""\
sparsemm report [key=value ...]: print the table and write it, the figure and page.html (one file for a
browser) to outputs/reports/<name>; without a grid, of the last sweep. <name> is the experiment (or sweep) and
a short code of other settings. tracking=offline | online makes a copy in W&B, from the store, at any time.
{_GRID}

examples
  sparsemm report
  sparsemm report +experiment=quickstart
  sparsemm report tracking=offline""",
    "sync": """\
sparsemm sync [output=FOLDER]: send the runs that tracking=offline wrote, and those that tracking=online could
not send, with wandb's own sync. What was sent is not sent again. It needs `wandb login`, and the same path to
the output folder as where the runs were written.

examples
  sparsemm sync
  sparsemm sync output=/shared/outputs""",
    "bench": """\
sparsemm bench [key=value ...]: speed and memory, methods side by side in one process, on the shape of a real
model with random weights (or its own: weights=FOLDER). Prompts are rendered pages, through the model's own
image processor and vision tower, filled with text to the exact length. Ways take turns; medians are told.
  measure=decode    milliseconds for a token: transformers' cache, ours in full, methods, the published way
  measure=prefill   what ranking, selecting and gathering add to reading a prompt
  measure=memory    peak of prompt and answer: weights, cache, the rest
  measure=grid      all methods and budgets decoded as rows of one cache, beside the full cache alone
  measure=kernel    one layer's append and attention
A comma makes a list, of every key that can have several. bench.json and bench.csv in `out` grow with every
result; what an earlier run left there is kept in earlier-1, earlier-2, ... What does not fit into memory is
null, with the reason, and the rest goes on. decode=graph and most 7B shapes need an NVIDIA GPU.

examples
  sparsemm bench +smoke=true                                      every measure in seconds, for a look
  sparsemm bench prompts=1024,4096 budgets=64,128 rounds=3
  sparsemm bench measure=kernel shape=qwen2_0_5b budgets=256,2048
  sparsemm bench measure=prefill,memory methods=full,snapkv,sparsemm
  sparsemm bench measure=grid weights=pkg://sparsemm.data/tiny methods=snapkv,adakv,sparsemm budgets=48,64
  sparsemm bench +experiment=figure6_efficiency                   the paper's Figure 6: needs a GPU
  sparsemm bench +experiment=figure6_efficiency +smoke=true tracking=offline     and a copy for W&B""",
}
