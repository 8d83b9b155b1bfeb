"""Train the tiny vision-language model that ships with the package: it reads rendered pages.

    python -m sparsemm.experiments.train_tiny_model out=outputs/tiny minutes=90

Runs on a CPU or a GPU, shows progress, writes a checkpoint every few minutes and goes on from it when it
is started again. Pages grow from one entry to a full page; the next size starts when the present one is
read. The rate decays over the last part of the time. Loss is on the answers only.
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

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Qwen2VLForConditionalGeneration

from sparsemm.models.tiny import MERGE, PATCH_PIXELS, build_config, build_tokenizer, save
from sparsemm.tasks.pages import PageSpec, make_page

IGNORE = -100


@dataclass(frozen=True)
class Stage:
    """A page size of the curriculum. `pages` is the number of pages in a step."""

    width: int
    height: int
    entries: tuple[int, int]
    pages: int
    pass_mark: float  # share of answer characters that ends the stage


STAGES = (
    Stage(96, 16, (1, 1), 64, 0.72),
    Stage(96, 32, (2, 2), 48, 0.80),
    Stage(112, 64, (3, 5), 32, 0.77),
    Stage(176, 128, (4, 7), 24, 0.82),
    Stage(192, 176, (6, 10), 16, 0.86),
    Stage(224, 208, (8, 12), 16, 0.88),
    Stage(256, 256, (10, 13), 12, 2.0),
    Stage(384, 384, (12, 24), 5, 2.0),  # mixed into the last stage, so that larger pages are read as well
)
LAST = len(STAGES) - 2
MIX = {"document": 0.8, "chart": 0.1, "words": 0.1}  # share of the steps, from the fourth stage on


@dataclass(frozen=True)
class Batch:
    """ids, labels [B, T]; positions [3, B, T]; pixels [B * patches, 3 * 8 * 8]; grid [B, 3]."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    pixels: Tensor
    grid: Tensor
    reading: bool  # read everything, instead of answering questions


@dataclass
class Settings:
    """Command line: key=value."""

    out: str = "outputs/tiny"
    minutes: float = 90.0
    rate: float = 1e-3
    decay: float = 0.4  # share of the time in which the rate falls to zero
    seed: int = 0
    device: str = "cpu"
    threads: int = 2
    save_every_s: float = 300.0
    last_stage: int = LAST


def patches(images: np.ndarray) -> np.ndarray:
    """[B, height, width] grey 0..255 -> [B * patches, 3 * 8 * 8] in the order of Qwen2-VL's processor."""
    count, height, width = images.shape
    side = PATCH_PIXELS * MERGE
    ink = (images.astype(np.float32) / 255 - 1.0) / 0.5
    blocks = ink.reshape(count, height // side, MERGE, PATCH_PIXELS, width // side, MERGE, PATCH_PIXELS)
    flat = blocks.transpose(0, 1, 4, 2, 5, 3, 6).reshape(-1, 1, PATCH_PIXELS * PATCH_PIXELS)
    return np.repeat(flat, 3, axis=1).reshape(len(flat), -1)


def make_batch(seed: int, step: int, stage_index: int) -> Batch:
    """The batch of a step; the same everywhere for the same arguments."""
    rng = random.Random(f"{seed}/{step}/{stage_index}")
    stage = STAGES[stage_index]
    kind = rng.choices(list(MIX), list(MIX.values()))[0] if stage_index >= 3 else "document"
    entries = (stage.entries[0], max(stage.entries)) if kind != "chart" else (3, 8)
    if kind == "words":
        entries = (2, max(3, stage.entries[1] // 2))
    size = ((11, 14), (13, 18), (13, 18))[stage_index] if stage_index < 3 else (15, 20)
    spec = PageSpec(kind=kind, width=stage.width, height=stage.height, entries=entries, font_size=size)  # type: ignore[arg-type]
    reading = kind == "words" or rng.random() < 0.35
    tokenizer = build_tokenizer()
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    image, images, rows = [], [], []
    tokens = stage.width * stage.height // (PATCH_PIXELS * MERGE) ** 2
    image = [
        tokenizer.convert_tokens_to_ids(t) for t in ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
    ]
    for place in range(stage.pages):
        page = make_page("train", spec, (seed * 10**9 + step) * 1000 + place)
        images.append(np.asarray(page.image))
        ids = [image[0], *[image[1]] * tokens, image[2]]
        labels = [IGNORE] * len(ids)
        pairs = [("read", page.text)] if reading else rng.sample(page.pairs, min(len(page.pairs), 12))
        for key, value in pairs:
            question, answer = encode(f"{key}?"), [*encode(value), end]
            ids += question + answer
            labels += [IGNORE] * len(question) + answer
        rows.append((ids, labels))
    longest = max(len(ids) for ids, _ in rows)
    grid_h, grid_w = stage.height // PATCH_PIXELS, stage.width // PATCH_PIXELS
    return Batch(
        torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
        torch.tensor([labels + [IGNORE] * (longest - len(labels)) for _, labels in rows]),
        _positions(grid_h // MERGE, grid_w // MERGE, longest)[:, None].expand(3, stage.pages, longest),
        torch.from_numpy(patches(np.stack(images))),
        torch.tensor([[1, grid_h, grid_w]] * stage.pages),
        reading,
    )


def _positions(height: int, width: int, length: int) -> Tensor:
    """M-RoPE positions [3, length] of: start mark, height x width image tokens, text."""
    grid = torch.stack(
        torch.meshgrid(torch.arange(1), torch.arange(height), torch.arange(width), indexing="ij")
    ).reshape(3, -1)
    text = torch.arange(length - 1 - height * width) + max(height, width) + 1
    return torch.cat([torch.zeros(3, 1), grid + 1, text.expand(3, -1)], dim=1).long()


def initialise(model: nn.Module) -> None:
    """Weights ~ fan_in^-0.5, half of that for projections into the residual stream."""
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            continue
        residual = name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight", "fc2.weight"))
        fan_in = weight.shape[1] if weight.dim() == 2 else weight[0].numel()
        std = 0.5 if "embed_tokens" in name else fan_in**-0.5 * (0.5 if residual else 1.0)
        nn.init.normal_(weight, std=std)


def choose_stage(rng: random.Random, now: int) -> int:
    """Mostly the present stage; sometimes one of the two before it, and at the end the largest page."""
    draw = rng.random()
    if now == LAST and draw < 0.15:
        return LAST + 1
    return rng.randint(max(0, now - 2), now - 1) if now and draw < 0.2 else now


def batches(settings: Settings, step: int, stage: list[int]) -> Iterator[tuple[int, Batch]]:
    """(stage index, batch) for every step, made in another process a few steps ahead."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        ahead: list[tuple[int, Future[Batch]]] = []
        while True:
            while len(ahead) < 4:
                rng = random.Random(f"{settings.seed}/{step}")
                index = choose_stage(rng, stage[0])
                ahead.append((index, pool.submit(make_batch, settings.seed, step, index)))
                step += 1
            index, future = ahead.pop(0)
            yield index, future.result()


def train(settings: Settings) -> None:
    """Train until the minutes are over, then save the model to `out`/model."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = Qwen2VLForConditionalGeneration(build_config(tokenizer)).to(settings.device).float().train()
    initialise(model)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.02},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=settings.rate,
        betas=(0.9, 0.98),
    )
    checkpoint = out / "checkpoint.pt"
    step, spent_s, stage = 0, 0.0, [0]
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=settings.device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent_s, stage = state["step"], state["spent_s"], [state["stage"]]

    def keep() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(
            {**state, "step": step, "spent_s": spent_s, "stage": stage[0]}, checkpoint.with_suffix(".tmp")
        )
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    budget_s = settings.minutes * 60
    right = {True: 0.0, False: 0.0}  # running share of right characters: reading, answering
    bar = tqdm(total=round(budget_s), initial=round(spent_s), unit="s", dynamic_ncols=True, mininterval=5)
    saved_at = last = time.monotonic()
    steps_here = 0
    log = (out / "log.jsonl").open("a")
    for index, batch in batches(settings, step, stage):
        left = 1 - spent_s / budget_s
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / 200)
            group["lr"] = (
                settings.rate
                * warm
                * (0.02 + 0.98 * 0.5 * (1 - math.cos(math.pi * min(1.0, max(0.0, left) / settings.decay))))
            )
        output = model(
            input_ids=batch.ids.to(settings.device),
            position_ids=batch.positions.to(settings.device),
            pixel_values=batch.pixels.to(settings.device),
            image_grid_thw=batch.grid.to(settings.device),
            use_cache=False,
        )
        targets = batch.labels[:, 1:].to(settings.device)
        asked = targets != IGNORE
        logits = output.logits[:, :-1][asked]
        loss = nn.functional.cross_entropy(logits, targets[asked])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        now = time.monotonic()
        spent_s, last = spent_s + now - last, now
        if index == stage[0]:
            share = (logits.argmax(-1) == targets[asked]).float().mean().item()
            right[batch.reading] += 0.04 * (share - right[batch.reading])
            steps_here += 1
        bar.set_postfix_str(
            f"step {step} stage {stage[0]} loss {loss.item():.3f} "
            f"read {right[True]:.3f} answer {right[False]:.3f}"
        )
        bar.n = round(spent_s)
        bar.refresh() if step % 50 == 0 else None
        if step % 50 == 0:
            record = {
                "step": step,
                "stage": stage[0],
                "loss": loss.item(),
                "read": right[True],
                "answer": right[False],
                "spent_s": spent_s,
            }
            log.write(json.dumps(record) + "\n")
            log.flush()
        if (
            stage[0] < settings.last_stage
            and min(right.values()) > STAGES[stage[0]].pass_mark
            and steps_here >= 60
        ):
            stage[0] += 1
            steps_here = 0
            right = {True: 0.0, False: 0.0}
            keep()
        if now - saved_at > settings.save_every_s:
            keep()
            saved_at = now
        if spent_s >= budget_s:
            break
    keep()
    save(model.eval().half(), tokenizer, pixels=1024 * 1024, folder=out / "model")
    report = {"settings": asdict(settings), "steps": step, "spent_s": round(spent_s)}
    report["torch"] = torch.__version__
    (out / "training.json").write_text(json.dumps(report, indent=1))


def main(arguments: list[str]) -> None:
    """Parse key=value arguments and train."""
    from omegaconf import OmegaConf

    settings = OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.from_dotlist(arguments))
    train(OmegaConf.to_object(settings))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
