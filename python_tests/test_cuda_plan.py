"""The plan for GPUs and the predictions that rest on it, for which no GPU is needed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import cuda_predictions
from benchmarks.cuda_predictions import GPUS, Block, fused, layers, predict
from proxyless_ext import _C
from proxyless_ext.bench.cases import cases
from proxyless_ext.spaces import imagenet

MIB = 1 << 20
L2 = {"RTX 3090": 6 * MIB, "A100": 40 * MIB, "H100": 50 * MIB, "RTX 5090": 96 * MIB}

# batch, size, C, hidden, O, kernel, stride
WIDE = (32, 56, 56, 24, 144, 24, 5, 1)
DEEP = (32, 7, 7, 192, 1152, 192, 5, 1)
HUGE = (256, 112, 112, 16, 96, 24, 5, 2)


@pytest.mark.parametrize(
    ("sizes", "gpu", "chunks"),
    [
        (WIDE, "RTX 3090", (160, 160)),  # Nothing fits, and passes over X cost more than D.
        (WIDE, "A100", (96, 160)),
        (WIDE, "RTX 5090", (160, 64)),
        (DEEP, "A100", (1152, 1152)),  # All of it fits.
        (HUGE, "A100", (96, 96)),
    ],
)
def test_chunks_of_known_devices(sizes: tuple[int, ...], gpu: str, chunks: tuple[int, int]) -> None:
    assert _C.cuda_mbconv_chunks(*sizes, dtype="bfloat16", l2_bytes=L2[gpu]) == chunks


@given(
    sizes=st.tuples(
        st.integers(1, 64), st.integers(1, 60), st.integers(1, 60), st.integers(1, 200),
        st.integers(1, 1300), st.integers(1, 330),
    ),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    l2=st.sampled_from(list(L2.values())),
)  # fmt: skip
def test_chunks_are_whole_groups(sizes: tuple[int, ...], dtype: str, l2: int) -> None:
    number = 4 if dtype == "float32" else 2
    group = 64 // number
    hidden = sizes[4]
    batch, height, width = sizes[:3]
    for chunk, tensors in zip(
        _C.cuda_mbconv_chunks(*sizes, 3, 1, dtype=dtype, l2_bytes=l2), (1, 3), strict=True
    ):
        assert chunk % group == 0
        assert group <= chunk <= -(-hidden // group) * group
        everything = tensors * batch * height * width * (hidden + group) * number
        if everything <= l2 / 2:  # Then nothing is gained by passing over X again.
            assert chunk >= hidden


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="l2_bytes"):
        _C.cuda_mbconv_chunks(*WIDE, l2_bytes=0)
    with pytest.raises(ValueError, match="batch"):
        _C.cuda_mbconv_chunks(0, *WIDE[1:])


@pytest.mark.parametrize("batch", [32, 256])
@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("dtype", cuda_predictions.BYTES)
def test_three_times_as_fast_as_eager_is_predicted(batch: int, gpu: object, dtype: str) -> None:
    totals = predict(cases(imagenet(), "k5e6", batch), dtype, gpu)
    assert totals["eager"] >= 3 * totals["fused"]
    assert totals["eager"] > totals["compiled"] > totals["fused"]
    assert totals["saved"] <= totals["saved by layers"] / 8


def test_counts_of_one_edge_by_hand() -> None:
    """16-24 112 s2 of one picture: 112^2 x 16 in, 96 expanded, 56^2 x 24 out, in bfloat16."""
    (case,) = [case for case in cases(imagenet(), "k5e6", 1) if case.name == "16-24 112 s2"]
    x, expanded, filtered, p = (
        2 * 112 * 112 * 16, 2 * 112 * 112 * 96, 2 * 56 * 56 * 96, 2 * 56 * 56 * 24
    )  # fmt: skip
    block = Block(case, "bfloat16", l2_bytes=1)  # Nothing stays in the cache.
    works = {work.kernel: work for work in fused(block)}
    assert works["expand_depthwise"].bytes == x + filtered
    assert works["expand_depthwise"].other == 2 * 25 * 56 * 56 * 96
    assert works["pointwise, project"].bytes == filtered + p
    assert works["depthwise_backward"].bytes == x + 2 * filtered + expanded
    assert works["pixel_products, expand weights"].tensor == 2 * 112 * 112 * 16 * 96
    eager = sum(work.bytes for work in layers(block, compiled=False))
    inner = 3 + 8 + 5 + 3  # convolution, BatchNorm, ReLU6, the next convolution
    assert eager == 3 * x + inner * (expanded + filtered) + (3 + 8) * p
    compiled = sum(work.bytes for work in layers(block, compiled=True))
    assert eager - compiled == 5 * (expanded + filtered)
