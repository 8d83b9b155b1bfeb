"""Matrix products that Triton's interpreter can do too."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl

UPCAST = tl.constexpr(bool(triton.knobs.runtime.interpret))  # the interpreter has no bfloat16 products


@triton.jit
def dot(left, right):
    """Left @ right in float32; products of half-precision numbers are exact in it."""
    if UPCAST:
        product = tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision="ieee")
    else:
        product = tl.dot(left, right, input_precision="ieee")
    return product
