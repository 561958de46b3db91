"""Every code block of the README, the guides and the docstrings runs, or says why it does not."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from pages import FENCE, ROOT, blocks, pages, run_python

import proxyless_ext
from proxyless_ext.config import LatencyConfig
from proxyless_ext.nn import MixedOp
from proxyless_ext.spaces import Space, registry

NOT_RUN = {
    "README.md": 4,
    "docs/data.md": 1,
    "docs/deploy.md": 1,
    "docs/devices.md": 10,
    "docs/latency.md": 1,
    "docs/operations.md": 1,
    "docs/quick_start.md": 1,
    "docs/results.md": 1,
    "docs/scale.md": 4,
    "docs/search.md": 2,
    "docs/specialise.md": 1,
}
"""How many blocks of each page say why they are not run."""

NEED_HEADERS = "run where: the compiler finds onnxruntime_cxx_api.h, which no Python package brings"
"""The mark of blocks that CI cannot run."""

LEFT_OUT = {"name": "page", "resolution": 32}
"""What pages do not say of the spaces in them."""

LANGUAGES = {"python", "sh", "text", "yaml", "cpp", "kotlin"}
CHECKED_MORE_CLOSELY = {"README.md", "docs/deploy.md"}


def test_every_exception_is_counted() -> None:
    marked = [block for block in blocks() if block.mark and block.mark != NEED_HEADERS]
    assert all(re.fullmatch("not run: .{10,}", block.mark or "") for block in marked)
    assert Counter(block.page for block in marked) == NOT_RUN
    assert [b.language for b in blocks() if b.mark == NEED_HEADERS] == ["cpp", "sh"]


def test_every_block_has_a_language_and_stands_between_fences() -> None:
    found = blocks()
    assert {block.language for block in found} == LANGUAGES
    for page, text in pages().items():
        rest = FENCE.sub("", text)
        assert "```" not in rest, page
        if page.endswith(".md"):
            rest = re.sub(r"^:::.*\n(    .*\n)*", "", rest, flags=re.M)  # With its options.
            assert not re.search(r"^    ", rest, re.M), page


@pytest.mark.parametrize(
    "page", sorted({block.page for block in blocks("python")} - CHECKED_MORE_CLOSELY)
)
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, since pages write files."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_makers", dict(registry._makers))
    run_python(page)


def test_yaml_is_a_space_or_a_device() -> None:
    devices, spaces = [], []
    for block in blocks("yaml"):
        tree = yaml.safe_load(block.code)
        if block.page in ("docs/devices.md", "docs/specialise.md"):
            devices.append(LatencyConfig.model_validate(tree))
        else:
            spaces.append(Space.model_validate({**LEFT_OUT, **tree}))
    assert [device.batch_size for device in devices] == [1, 1, 32, 1, 1]
    elsewhere = ["Pixel 8, big cores", "simulator 1.2"]
    assert [device.processor for device in devices] == [None, None, None, *elsewhere]
    assert [len(space.edges) for space in spaces] == [5, 5, 18]


@pytest.mark.filterwarnings("ignore:whole models deviate", "ignore:other programs kept")
@pytest.mark.filterwarnings("ignore:no network was found that takes")  # Of a busy machine.
def test_the_readmes_examples_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(len(block.code.splitlines()) <= 25 for block in blocks("python", "README.md"))
    variables = run_python("README.md")
    alpha = variables["layer"].alpha
    assert alpha.isfinite().all()
    # Ten steps of Adam, from a standard deviation of 1e-3.
    assert (alpha - alpha.mean()).abs().max() > 3e-3
    cost, target = map(float, re.findall(r"[\d.]+", capsys.readouterr().out))
    assert cost == pytest.approx(target, rel=0.06)  # 5 % and what rounding may add.
    network = variables["network"].eval()
    assert not any(isinstance(module, MixedOp) for module in network.modules())
    assert network(variables["pictures"]).shape == (16, 10)


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(text for page, text in pages().items() if page.startswith("docs/reference/"))
    listed = set(re.findall(r"^::: proxyless_ext\.(\w+)$", text, re.M))
    elsewhere = {"spaces", "__version__"}  # The names of the one have entries of their own.
    assert set(proxyless_ext.__all__) - elsewhere <= listed


def test_what_was_tried_has_tests() -> None:
    named = set(re.findall(r"`(test_\w+)`", pages()["docs/compatibility.md"]))
    sources = [path.read_text() for path in (ROOT / "python_tests").glob("test_*.py")]
    defined = {name for source in sources for name in re.findall(r"def (test_\w+)", source)}
    assert len(named) > 20
    assert named <= defined
