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
  bench    milliseconds for a token and memory of the cache, methods side by side
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
sparsemm bench [key=value ...]: milliseconds for a token and bytes of the cache, methods side by side.
The model has the shape of a real one and random weights, and reads random tokens; the ways are timed in turn,
and the median is told. `transformers` is its own cache with PyTorch's attention, in the same loop.

settings (a comma makes several)
  measure=decode           decode, or kernel: one layer's append and attention, beside copying the cache
  shape=tiny               tiny, qwen2_0_5b, qwen2_vl_7b, llava_next_vicuna_7b, llava_next_mistral_7b
  prompts=4096             tokens of the prompt
  methods=full,sparsemm    methods of conf/method
  budgets=128              entries kept per KV head
  tokens=32                decoded in a round
  rounds=5                 and one before them that is not counted
  rows=1                   sequences decoded together
  backend=auto             torch, triton, cuda, flash_attn (engine.cache_backend)
  decode=eager             eager, or both: eager and graph (a GPU only)
  device=auto              cpu, cuda
  dtype=float32            bfloat16, float16
  out=outputs/bench        folder of bench.json and bench.csv

examples
  sparsemm bench
  sparsemm bench prompts=1024,4096 budgets=64,128 rounds=3
  sparsemm bench measure=kernel shape=qwen2_0_5b budgets=256,2048""",
}
