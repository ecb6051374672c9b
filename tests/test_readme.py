"""The documentation is true: queries and Python run; flags, fields and links are the code's."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import duckdb
import numpy as np
import pytest

import unet_ray
from unet_ray.cli.main import COMMANDS
from unet_ray.cli.quickstart import QuickstartConfig
from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.output.config import ExportConfig, PruneConfig, ReportConfig, VerifyConfig
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode, make_archive
from unet_ray.tables.schemas import SCHEMAS, described
from unet_ray.training.config import TrainConfig

REPOSITORY = Path(__file__).parent.parent
README = REPOSITORY / "README.md"
COMMANDS_README = REPOSITORY / "jobs/README.md"
PACKAGE_README = REPOSITORY / "unet_ray/README.md"
IMAGES_README = REPOSITORY / "unet_ray/image_sources/README.md"
OUTPUT_README = REPOSITORY / "unet_ray/output/README.md"
DOCUMENTS = [
    README,
    *(file for name in ("jobs", "unet_ray", "tests") for file in (REPOSITORY / name).rglob("*.md")),
]
CONFIGS = {
    "train": TrainConfig,
    "segment": SegmentConfig,
    "evaluate": EvaluateConfig,
    "verify": VerifyConfig,
    "prune": PruneConfig,
    "report": ReportConfig,
    "export": ExportConfig,
    "quickstart": QuickstartConfig,
}
LINES_AT_MOST = 150
WORDS_AT_MOST = 80


def blocks(document: Path, language: str) -> list[str]:
    """Return the code blocks of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)
    return [code for name, code in found if name == language]


def test_the_table_of_formats_has_all_suffixes() -> None:
    rows = re.findall(r"^\| [^|]+ \|([^|]+)\|[^|]*\|$", IMAGES_README.read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\.\w+)`", " ".join(rows))) == IMAGE_SUFFIXES


def prose(document: Path) -> str:
    """Return the text without its code blocks."""
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)


def flags_of(command: str) -> set[str]:
    return {f"--{field.name.replace('_', '-')}" for field in fields(CONFIGS[command])}


def test_the_first_page_is_short() -> None:
    assert len(README.read_text().splitlines()) <= LINES_AT_MOST
    for paragraph in re.split(r"\n\s*\n|\n- |\n\|", prose(README)):
        assert len(paragraph.split()) <= WORDS_AT_MOST, paragraph


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if link.startswith("https://"):
            continue
        path, _, heading = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{link} in {document}"
        if heading:
            assert heading in _headings(target), f"{link} in {document}"


def _headings(document: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    titles = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_folder_of_documentation_is_linked_from_the_first_page() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)", README.read_text()))
    assert {str(file.relative_to(REPOSITORY)) for file in DOCUMENTS if file != README} <= linked


@pytest.mark.parametrize("command", CONFIGS)
def test_the_table_of_flags_has_all_flags(command: str) -> None:
    table = COMMANDS_README.read_text().split("\n## Flags\n")[1]
    (row,) = re.findall(rf"^\| `{command}\.py` \| (.*) \|$", table, re.MULTILINE)
    assert set(re.findall(r"--[a-z-]+", row)) == flags_of(command)


def test_there_are_no_other_commands() -> None:
    assert set(CONFIGS) == set(COMMANDS)
    table = COMMANDS_README.read_text().split("\n## Commands\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE)) == set(COMMANDS)
    assert {file.stem for file in (REPOSITORY / "jobs").glob("*.py")} == set(COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_printed_commands_have_only_flags_that_there_are(document: Path) -> None:
    for block in [*blocks(document, "bash"), *blocks(document, "")]:
        for command, rest in _printed_commands(block):
            known = flags_of(command) | {"--no-pixels"}
            assert {word.split("=")[0] for word in rest if word.startswith("--")} <= known, rest


def _printed_commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of ours in a block of shell, each with the words behind it."""
    for line in block.replace("\\\n", " ").splitlines():
        found = re.search(r"(?:jobs/([a-z]+)\.py|^unet-ray ([a-z]+)) (.*)", line)
        if found and (name := found[1] or found[2]) in CONFIGS:
            yield name, shlex.split(re.split(r"\|\||;|&&", found[3])[0], comments=True)


def test_the_table_of_fields_is_that_of_the_schemas() -> None:
    (block,) = re.findall(
        r"<!-- fields -->\n(.*?)\n<!-- end of fields -->", OUTPUT_README.read_text(), re.DOTALL
    )
    assert block == described()
    assert all(f"| `{name}` |" in block for name in SCHEMAS)


def test_the_layout_is_that_of_the_package() -> None:
    (layout,) = re.findall(r"<!-- layout -->\n```\n(.*?)```", PACKAGE_README.read_text(), re.DOTALL)
    listed = {path.rstrip("/") for path in re.findall(r"^(\S+)", layout, re.MULTILINE)}
    package = REPOSITORY / "unet_ray"
    assert all((package / path).exists() for path in listed), listed
    packages = {str(file.parent.relative_to(package)) for file in package.rglob("*/__init__.py")}
    modules = {file.name for file in package.glob("*.py")} - {"__init__.py"}
    assert packages | modules == listed - {"../jobs"}


@pytest.mark.usefixtures("ray_local")
def test_queries_and_python_of_the_output_run_as_printed(
    tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_archive(Storage.of(f"{tmp_path}/data"), labelled=0, check=0, archive=2)
    segment(
        SegmentConfig(
            model=tiny_model,
            images=made.archive.uri,
            output=f"{tmp_path}/tables",
            max_error_rate=1.0,
            threshold=0.3,
        )
    )
    shutil.copytree(tiny_model, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    sizes, largest, why, images, regions = _run_queries()
    assert [row[0] for row in sizes] == ["cell", "fibre"]
    assert len(largest) == 10
    assert any(
        "corrupt.png" in str(uri) and str(reason).startswith("unreadable") for uri, reason in why
    )
    assert images == [(2,)]
    assert regions == [(sum(row[1] for row in sizes),)]
    names: dict[str, object] = {}
    for code in blocks(OUTPUT_README, "python"):
        exec(code, names)
    assert sorted(names["areas"]) == ["cell", "fibre"]  # type: ignore[call-overload]
    assert isinstance(names["mask"], np.ndarray)
    assert names["mask"].shape == (200, 200)
    assert isinstance(names["ids"], np.ndarray)
    assert names["ids"].shape == (200, 200)
    assert (tmp_path / "overlay.png").exists()
    assert (tmp_path / "found.png").exists()


def _run_queries() -> list[list[tuple[object, ...]]]:
    found = []
    for query in blocks(OUTPUT_README, "sql"):
        duckdb.sql(query)
        view = re.match(r"CREATE OR REPLACE VIEW (\w+)", query)
        found.append(duckdb.sql(f"SELECT count(*) FROM {view[1]}" if view else query).fetchall())
    return found


def test_names_of_the_printed_python_are_public() -> None:
    for document in (README, OUTPUT_README):
        text = "\n".join(blocks(document, "python")) + document.read_text()
        named = set(re.findall(r"\bunet_ray\.(\w+)", text))
        assert named <= {*unet_ray.__all__, "output"}, named - set(unet_ray.__all__)


@pytest.mark.slow
def test_the_python_of_the_first_page_runs(tmp_path: Path) -> None:
    """As a script of its own, on images of the names that it gives; only training is made short."""
    data = Storage.of(str(tmp_path))
    rng = np.random.default_rng(0)
    for index in range(3):
        image, mask = draw_scene(256, 256, rng)
        data.write(f"photos/images/{index}.png", encode(image, "png"))
        data.write(f"photos/masks/{index}.png", encode(mask, "png"))
    data.write("archive/one.png", encode(draw_scene(256, 300, rng)[0], "png"))
    (code,) = blocks(README, "python")
    short = code.replace('output="model")', 'output="model", epochs=1, base_channels=4, depth=2)')
    assert short != code
    checks = "\nassert leaf.shape == (256, 256)\n"
    done = subprocess.run(
        [sys.executable, "-c", short + checks], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (tmp_path / "one-overlay.png").exists()
    assert (tmp_path / "model/model.json").exists()


def test_ci_calls_the_test_command() -> None:
    assert "<!-- tests -->" in (REPOSITORY / ".ci/run").read_text()
    (command,) = re.findall(r"<!-- tests -->\n```bash\n(.*?)\n```", README.read_text(), re.DOTALL)
    assert command.endswith('-m pytest -n 2 --dist loadfile -m "not soak and not gpu"')
    (quickstart,) = re.findall(
        r"<!-- quickstart -->\n```bash\n(.*?)\n```", README.read_text(), re.DOTALL
    )
    assert quickstart.endswith("jobs/quickstart.py")


def test_the_benchmarks_that_are_named_can_be_run() -> None:
    text = "".join(document.read_text() for document in DOCUMENTS)
    named = set(re.findall(r"python -m (tests\.benchmarks\.\w+)", text))
    scripts = {
        f"tests.benchmarks.{file.stem}" for file in (REPOSITORY / "tests/benchmarks").glob("*.py")
    }
    assert named <= scripts
    code = f"import importlib; [importlib.import_module(name) for name in {sorted(scripts)}]"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
