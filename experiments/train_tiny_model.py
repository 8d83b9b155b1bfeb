"""Train the tiny vision-language model that ships with the package: it reads rendered pages.

    python -m sparsemm.experiments.train_tiny_model out=outputs/tiny steps=13000

Runs on a CPU or a GPU, shows progress, writes a checkpoint every few minutes and goes on from it when it
is started again. Pages grow from one entry to a full page; the next size starts when the present one is
read. The rate decays over the last part of the steps. Loss is on the answers only. The pages, their order and
the first weights follow from the seed; arithmetic differs between machines as it always does.
"""

import json
import math
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from sparsemm.experiments.tiny_curriculum import IGNORE, LAST, STAGES, Batch, choose_stage, make_batch
from torch import nn
from tqdm import tqdm
from transformers import Qwen2VLForConditionalGeneration

from sparsemm.models.tiny import build_config, build_tokenizer, save


@dataclass
class Settings:
    """Command line: key=value."""

    out: str = "outputs/tiny"
    steps: int = 13_000  # 0.2 to 1 s each on 2 cores, by page size
    rate: float = 1e-3
    decay: float = 0.4  # share of the steps in which the rate falls to zero
    seed: int = 0
    device: str = "cpu"
    threads: int = 2
    save_every_s: float = 300.0
    init: str = ""  # a saved model to go on from, at the last stage


def initialise(model: nn.Module) -> None:
    """Weights ~ fan_in^-0.5, half of that for projections into the residual stream."""
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            continue
        residual = name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight", "fc2.weight"))
        fan_in = weight.shape[1] if weight.dim() == 2 else weight[0].numel()
        std = 0.5 if "embed_tokens" in name else fan_in**-0.5 * (0.5 if residual else 1.0)
        nn.init.normal_(weight, std=std)


def batches(settings: Settings, progress: "Progress") -> Iterator[tuple[int, Batch]]:
    """(stage index, batch) for every step, made in another process a few steps ahead."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        ahead: list[tuple[int, Future[Batch]]] = []
        step = progress.step
        while True:
            while len(ahead) < 4:
                rng = random.Random(f"{settings.seed}/{step}")
                index = choose_stage(rng, progress.stage)
                ahead.append((index, pool.submit(make_batch, settings.seed, step, index)))
                step += 1
            index, future = ahead.pop(0)
            yield index, future.result()


@dataclass
class Progress:
    """Where the training is; part of the checkpoint."""

    step: int = 0
    stage: int = 0
    read: float = 0.0  # running share of right characters when reading everything
    answer: float = 0.0  # the same when answering questions
    steps_here: int = 0  # in this stage
    spent_s: float = 0.0

    def saw(self, batch: Batch, share: float) -> None:
        """Count a batch of the present stage."""
        self.steps_here += 1
        if batch.reading:
            self.read += 0.04 * (share - self.read)
        else:
            self.answer += 0.04 * (share - self.answer)

    def advance(self) -> bool:
        """Go to the next page size where this one is read."""
        done = min(self.read, self.answer) > STAGES[self.stage].pass_mark and self.steps_here >= 60
        if self.stage == LAST or not done:
            return False
        self.stage, self.steps_here, self.read, self.answer = self.stage + 1, 0, 0.0, 0.0
        return True


def rate_at(settings: Settings, step: int) -> float:
    """The learning rate: warm-up, constant, then a cosine to 2 % over the last part."""
    left = min(1.0, (1 - step / settings.steps) / settings.decay)
    return settings.rate * min(1.0, (step + 1) / 200) * (0.02 + 0.49 * (1 - math.cos(math.pi * left)))


def train(settings: Settings) -> None:
    """Train for `steps` steps, then save the model to `out`/model."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = Qwen2VLForConditionalGeneration(build_config(tokenizer)).to(settings.device).float().train()
    initialise(model)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
    checkpoint, progress = out / "checkpoint.pt", Progress()
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=settings.device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**state["progress"])
    elif settings.init:
        start = Qwen2VLForConditionalGeneration.from_pretrained(settings.init, dtype=torch.float32)
        model.load_state_dict(start.state_dict())
        progress.stage = LAST

    def keep() -> None:
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "progress": asdict(progress),
        }
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    saved_at = last = time.monotonic()
    with (
        (out / "log.jsonl").open("a") as log,
        tqdm(total=settings.steps, initial=progress.step, unit="step", dynamic_ncols=True) as bar,
    ):
        for index, batch in batches(settings, progress):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(settings, progress.step)
            loss, share = _update(model, optimizer, batch, settings.device)
            progress.step += 1
            now = time.monotonic()
            progress.spent_s, last = progress.spent_s + now - last, now
            if index == progress.stage:
                progress.saw(batch, share)
            bar.update()
            bar.set_postfix(stage=progress.stage, loss=loss, read=progress.read, answer=progress.answer)
            if progress.step % 50 == 0:
                log.write(json.dumps({**asdict(progress), "loss": loss}) + "\n")
                log.flush()
            if progress.advance() or now - saved_at > settings.save_every_s:
                keep()
                saved_at = now
            if progress.step >= settings.steps:
                break
    keep()
    save(model.eval().half(), tokenizer, pixels=1024 * 1024, folder=out / "model")
    report = {"settings": asdict(settings), **asdict(progress), "torch": torch.__version__}
    (out / "training.json").write_text(json.dumps(report, indent=1))


def _update(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, device: str
) -> tuple[float, float]:
    """One step; (loss, share of right answer characters)."""
    output = model(
        input_ids=batch.ids.to(device),
        position_ids=batch.positions.to(device),
        pixel_values=batch.pixels.to(device),
        image_grid_thw=batch.grid.to(device),
        use_cache=False,
    )
    targets = batch.labels[:, 1:].to(device)
    asked = targets != IGNORE
    logits = output.logits[:, :-1][asked]
    loss = nn.functional.cross_entropy(logits, targets[asked])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item(), (logits.argmax(-1) == targets[asked]).float().mean().item()


def main(arguments: list[str]) -> None:
    """Parse key=value arguments and train."""
    from omegaconf import OmegaConf

    settings = OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.from_dotlist(arguments))
    train(OmegaConf.to_object(settings))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
