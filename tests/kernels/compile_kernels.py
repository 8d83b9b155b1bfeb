"""Compile the Triton kernels for GPUs that need not be here; prints one JSON line per kernel.

Run by test_compile.py in a process of its own: Triton cannot interpret and compile in the same one.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from sparsemm.kernels import append, choose_top, copy_behind, gather, ragged_decode, window_scores_triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
INTEGERS = {
    "starts": "*i64", "lengths": "*i64", "tokens": "*i64", "out_tokens": "*i64", "seen": "*i64",
    "keep": "*i1", "chosen": "*i1", "counts": "*i64", "segments": "*i32", "chunks": "*i32", "firsts": "*i32",
    "ends": "*i32",
}  # fmt: skip
FLOATS = ("partial", "sums", "means", "scores")
SCALARS = ("n", "tokens", "window", "candidates", "spans", "query_row", "query_head")


def report(name, kernel, dtype, target, constants, warps, scalars=()):
    """Compile with 16-byte aligned pointers, as the caching allocator gives them."""
    signature, aligned = {}, {}
    for index, key in enumerate(kernel.arg_names):
        if key in constants:
            signature[key] = "constexpr"
        elif key == "scaling":
            signature[key] = "fp32"
        elif key in scalars or key in ("new", "shift", "T") or key.split("_")[-1] in ("row", "head", "token"):
            signature[key] = "i32"
        else:
            signature[key] = "*fp32" if key in FLOATS else INTEGERS.get(key, f"*{TYPES[dtype]}")
            aligned[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attrs=aligned)
    built = triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout)
    row = {"kernel": name, "sm": target, "dtype": TYPES[dtype], "shared_kb": built.metadata.shared // 1024}
    row |= {key: value for key, value in constants.items() if key in ("G", "D")}
    row["copied_ahead"] = built.asm["ptx"].count("cp.async.cg.shared.global")
    print(json.dumps({**row, "registers": int(found[1]), "spilled_bytes": int(found[2])}), flush=True)


def main():
    for target in (80, 90):
        for most in (choose_top.LARGEST, 2 * choose_top.LARGEST):
            tile = choose_top.blocks(most)
            warps = tile.pop("num_warps")
            choose = choose_top.choose_scores
            report("choose_scores", choose, torch.float32, target, {"H": 4, **tile}, warps, SCALARS)
        for dtype in TYPES:
            for dim in ragged_decode.HEAD_DIMS:
                if target == 80 and dtype != torch.bfloat16 and dim != 128:
                    continue
                for group in (1, 7):
                    tile = ragged_decode.blocks(group, dim, dtype)
                    shape = {"H": 4, "G": group, "D": dim, **tile}
                    report("attend_chunk", ragged_decode.attend_chunk, dtype, target, shape, 4)
            block = {"D": 128, "BLOCK_D": 128}
            group = {"G": 7, "PARTS": ragged_decode.PARTS}
            report("combine_chunks", ragged_decode.combine_chunks, dtype, target, {**block, **group}, 2)
            report("append_tokens", append.append_tokens, dtype, target, {"H": 4, **block}, 1)
            sizes = {"BLOCK_T": gather.BLOCK_T, "SPAN": gather.SPAN}
            report("gather_kept", gather.gather_kept, dtype, target, {"H": 4, **block, **sizes}, 4)
            whole = {**block, "BLOCK": copy_behind.BLOCK}
            report("copy_segments", copy_behind.copy_segments, dtype, target, whole, 4)
            for dim in (128, 256) if target == 90 or dtype == torch.bfloat16 else ():
                shape = {"G": 7, "D": dim, **window_scores_triton.blocks(32, dim, dtype)}
                span = {"SPAN": window_scores_triton.SPAN}
                ranking = (window_scores_triton.window_sums, window_scores_triton.window_means)
                report("window_sums", ranking[0], dtype, target, {**shape, **span}, 4, SCALARS)
                report("window_means", ranking[1], dtype, target, shape, 4, SCALARS)


if __name__ == "__main__":
    main()
