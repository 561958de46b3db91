import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_runs import layer_ms, make_run

from proxyless_ext.errors import UserError
from proxyless_ext.report import write_report
from proxyless_ext.report.contents import Contents, Result
from proxyless_ext.report.summary import key_figures, summarise
from proxyless_ext.runs import Run
from proxyless_ext.spaces import Architecture, Space, Stage, cifar_mbconv

SMALL = Space(
    name="small",
    resolution=8,
    num_classes=10,
    candidates=("k3e3", "k7e6", "zero", "identity"),
    stages=(Stage(channels=8, cells=2, stride=2), Stage(channels=16, cells=1)),
    feature_mix=16,
)
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """A page taken apart; a tag that is not closed where it should be is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.source = text
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """What there is to read, in single spaces."""
        return " ".join(" ".join(self.words).split())

    @property
    def pictures(self) -> list[str]:
        return re.findall(r"<svg.*?</svg>", self.source, re.DOTALL)

    @property
    def labels(self) -> list[str]:
        """What is said of each picture."""
        return [attributes["aria-label"] for tag, attributes in self.tags if tag == "svg"]


def report(folder: Path) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text())


def edit(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def cifar_run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "cifar", cifar_mbconv())


@pytest.fixture(scope="module")
def cifar_page(cifar_run) -> Page:
    return report(cifar_run)


@pytest.fixture(scope="module")
def small_page(tmp_path_factory) -> Page:
    return report(make_run(tmp_path_factory.mktemp("runs") / "small", SMALL))


@pytest.fixture
def small_run(tmp_path) -> Path:
    return make_run(tmp_path / "small", SMALL)


def test_page_loads_nothing_and_runs_nothing(cifar_page):
    loading = {"script", "link", "img", "iframe", "object", "embed", "base", "form", "audio"}
    assert not loading & {tag for tag, _ in cifar_page.tags}
    for _, attributes in cifar_page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src", "xlink:href"):
                assert value.startswith("#")
    namespace = 'xmlns="http://www.w3.org/2000/svg"'
    assert "//" not in cifar_page.source.replace(namespace, "")
    assert "@import" not in cifar_page.source
    assert set(re.findall(r"url\((.)", cifar_page.source)) <= {"#"}


def test_page_is_well_formed(cifar_page):
    for picture in cifar_page.pictures:
        ElementTree.fromstring(picture)
    ids = Counter(attributes["id"] for _, attributes in cifar_page.tags if "id" in attributes)
    assert set(ids.values()) == {1}
    used = re.findall(r"url\(#([^)]+)\)", cifar_page.source)
    used += re.findall(r'href="#([^"]+)"', cifar_page.source)
    assert used
    assert set(used) <= set(ids)
    assert cifar_page.source.startswith("<!DOCTYPE html>")
    assert ("html", {"lang": "en"}) in cifar_page.tags


def test_page_has_every_figure(cifar_page):
    starts = Counter(re.split(r"[:,]", label)[0] for label in cifar_page.labels)
    assert starts == {
        "network derived": 3,  # One for each width of screen.
        **{f"Edge {number}": 1 for number in range(1, 17)},
        "Predicted latency and trade-off over the search": 1,
        "Latency of each layer of the derived network": 1,
        "Accuracy and loss over the epochs of warmup": 1,
        "Accuracy and loss over the epochs of search": 1,
        "Accuracy and loss over the epochs of train": 1,
        "Accuracy against measured latency": 1,
    }
    assert "missing" not in [attributes.get("class") for _, attributes in cifar_page.tags]


def test_page_says_the_key_figures(cifar_page):
    for words in (
        "80.3 %",
        "top-5: 98.7 %",
        "1.23 M",
        "45.7 M",
        "2.4 % above the target,",
        "3.0 % above the prediction,",
        "2 epochs of warm-up, 4 epochs of search, 3 epochs of training",
        "It took 12 min 44 s (warm-up 1 min 02 s, search 6 min 41 s, training 5 min 01 s)",
        "Searched on Processor X (2 cores).",
        "for Processor Y, backend onnxruntime, 1 picture at a time, 1 thread.",
        "The space's networks take",
        "16 edges",
        "10 classes apart (airplane, automobile,",
        "within 1.0e-06",
        "target ± 10 %",
    ):
        assert words in cifar_page.text


def test_latencies_are_those_of_the_table(cifar_run, cifar_page):
    for layer in Architecture.load(cifar_run / "architecture.json").layers():
        assert f"{layer_ms(layer):.4g}" in cifar_page.words


def test_choices_and_their_probabilities_are_named(cifar_run, cifar_page):
    record = [json.loads(line) for line in (cifar_run / "metrics.jsonl").open()][5]
    assert record["phase"] == "search"
    for number, edge in enumerate(cifar_mbconv().edges):
        probability, name = max(zip(record["probabilities"][number], edge.candidates, strict=True))
        assert f"{number + 1}: {name} {100 * probability:.1f} %" in cifar_page.text


def test_the_derived_choice_is_shown_where_it_is_not_the_likeliest(small_run):
    choices = json.loads((small_run / "result.json").read_text())["choices"]
    choices[0] = 1 - choices[0]
    SMALL.architecture(choices, "derived").save(small_run / "architecture.json")
    record = [json.loads(line) for line in (small_run / "metrics.jsonl").open()][5]
    name = SMALL.edges[0].candidates[choices[0]]
    percent = 100 * record["probabilities"][0][choices[0]]
    assert percent < 50
    assert f"1: {name} {percent:.1f} %" in report(small_run).text


def test_comparison_lists_every_network_and_the_spread(cifar_page):
    for words in (
        "derived network 80.3",
        "random-0 76.0",
        "random-2 78.0",
        "mean of 3 random networks 77.0 ± 1.0",
        "shortlist-1 79.0",
        "mobilenet_v2 81.0",
        "mnasnet1_0 \N{EN DASH}",
        "3.3 points above the mean of 3 random networks of its latency",
    ):
        assert words in cifar_page.text


def test_finalists_are_listed_by_what_they_chose(cifar_run, cifar_page):
    for words in (
        "96 networks were scored",
        "The best 4 began their training",
        "-3.5 0.610 0.710 25.0 % 0.800",
    ):
        assert words in cifar_page.text
    space = cifar_mbconv()
    choices = json.loads((cifar_run / "derivation.json").read_text())["finalists"][0]["choices"]
    pairs = zip(space.edges, choices, strict=True)
    names = " ".join(edge.candidates[choice] for edge, choice in pairs)
    assert names.replace("zero", "-") in cifar_page.text


def test_without_finalists_none_are_mentioned(small_run):
    (small_run / "derivation.json").unlink()
    assert "Finalists" not in report(small_run).text


def test_the_same_run_gives_the_same_page(small_run):
    first = write_report(small_run).read_bytes()
    assert write_report(small_run).read_bytes() == first


HOSTILE = ["<script>alert(1)</script>", "</title>&amp;", "a\x00\x1b\u202e", "$x^2$", "{{ 7*7 }}"]


def test_hostile_names_are_only_text(tmp_path):
    classes = [*HOSTILE, *map(str, range(5))]
    folder = make_run(tmp_path / "<b>&run", SMALL, classes=classes)
    edit(folder / "environment.json", lambda content: content.update(cpu="<img src=x>"))
    edit(folder / "architecture.json", lambda content: content.update(name='"><svg/onload=1>\x00'))
    edit(folder / "comparison.json", lambda content: content["random"][0].update(name="<i-evil>"))
    edit(
        folder / "comparison.json", lambda content: content["yardsticks"][0].update(name="$</svg>")
    )
    (folder / "config.yaml").write_text("name: </pre><script>alert(1)</script>\n")
    page = report(folder)
    assert not {"script", "img", "svg/onload", "i-evil"} & {tag for tag, _ in page.tags}
    for name in ("<script>alert(1)</script>", "</title>&amp;", "$x^2$", "{{ 7*7 }}", "<b>&run"):
        assert name in page.text
    assert "Searched on <img src=x> (2 cores)" in page.text
    assert "name: </pre><script>" in page.text
    for picture in page.pictures:
        ElementTree.fromstring(picture)


def test_a_thousand_classes_are_not_listed(tmp_path):
    folder = make_run(tmp_path / "run", SMALL, classes=[f"class-{i}" for i in range(1000)])
    what = next(summarise(Contents.load(Run(folder)))).text
    assert "class-11 …" in what
    assert "class-12" not in what


@pytest.mark.parametrize(
    ("name", "sentence", "figures"),
    [
        ("environment.json", "Searched on an unknown machine.", 0),
        ("space.yaml", "There is no space.yaml.", 3),
        ("latency.yaml", "No latencies have been measured yet.", 1),
        ("architecture.json", "No network has been derived yet.", 4),
        ("result.json", "not known yet", 0),
        ("metrics.jsonl", "No epoch has been recorded yet.", 7),
        ("comparison.json", "The network has not been compared with others.", 1),
    ],
)
def test_a_missing_file_is_named_and_the_rest_is_shown(
    small_run, small_page, name, sentence, figures
):
    (small_run / name).unlink()
    page = report(small_run)
    assert sentence in page.text
    assert sentence not in small_page.text
    assert len(page.pictures) == len(small_page.pictures) - figures


def test_a_run_that_has_just_begun_has_a_page(small_run):
    for path in small_run.iterdir():
        if path.name != "config.yaml":
            path.unlink()
    page = report(small_run)
    assert page.pictures == []
    assert "not known yet" in page.text


@pytest.mark.parametrize("key", Result.model_fields)
def test_a_result_may_lack_any_key(small_run, key):
    edit(small_run / "result.json", lambda content: content.pop(key))
    contents = Contents.load(Run(small_run))
    unknown = [figure for figure in key_figures(contents) if figure.value is None]
    known = ("accuracy", "predicted", "measured", "parameters", "macs")
    assert len(unknown) == (key in known)
    assert list(summarise(contents))


def test_a_result_may_be_empty(small_run):
    (small_run / "result.json").write_text("{}")
    assert report(small_run).text.count("not known yet") == 5


def test_a_search_without_a_target_shows_none(small_run):
    records = [json.loads(line) for line in (small_run / "metrics.jsonl").open()]
    for record in records:
        if record["phase"] == "search":
            record.update(target=None)
    (small_run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    edit(small_run / "result.json", lambda content: content.update(target=None))
    page = report(small_run)
    assert "target" not in page.text
    assert "derived network" in page.text


def test_single_epochs_are_points(tmp_path):
    page = report(make_run(tmp_path / "run", SMALL, epochs=(1, 1, 1)))
    charts = dict(zip(page.labels, page.pictures, strict=True))
    curves = charts["Accuracy and loss over the epochs of train"]
    assert curves.count("<use") >= 4  # A marker for each of the four values.
    edges = [chart for label, chart in charts.items() if label.startswith("Edge")]
    assert len(edges) == 3


def test_the_half_line_of_a_killed_run_is_left_out(small_run):
    with (small_run / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "train", "ep')
    assert "3 epochs of training" in report(small_run).text


def test_everything_skipped(tmp_path):
    preferences = [[9.0 * (name == "zero") for name in edge.candidates] for edge in SMALL.edges]
    page = report(make_run(tmp_path / "run", SMALL, preferences=preferences))
    assert "Of 3 blocks, 1 skipped." in page.text


def test_a_missing_latency_is_said_where_latencies_would_stand(small_run):
    table = (small_run / "latency.yaml").read_text()
    (small_run / "latency.yaml").write_text(table.replace("Logits-", "Other-"))
    page = report(small_run)
    assert "Logits-" in page.text
    assert "Latency of each layer of the derived network" not in page.labels


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    "name", ["result.json", "comparison.json", "derivation.json", "environment.json"]
)
def test_a_damaged_file_is_named_and_the_old_page_kept(small_run, name):
    (small_run / "report.html").write_text("an earlier page")
    (small_run / name).write_text('{"accuracy": [')
    with pytest.raises(UserError, match=re.escape(name)):
        write_report(small_run)
    assert (small_run / "report.html").read_text() == "an earlier page"


@pytest.mark.parametrize("name", ["metrics.jsonl", "architecture.json", "derivation.json"])
def test_files_of_another_space_are_an_error(small_run, tmp_path, name):
    other = make_run(tmp_path / "other", cifar_mbconv(), epochs=(0, 1, 0))
    (small_run / name).write_text((other / name).read_text())
    with pytest.raises(UserError, match=r"do not fit its space\.yaml; restore"):
        write_report(small_run)
