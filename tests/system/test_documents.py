"""The Markdown files: links lead somewhere, scripts print what is quoted, intervals are published, metrics told."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".", "benchmarks", "config/experiments", "docker", "plugins/mmsa", "results", "src", "src/envs")
DOCUMENTS = [ROOT / f"{folder}/README.md" for folder in FOLDERS]
DOCUMENTS += sorted(ROOT.glob("results/*/README.md"))


def prose(document: Path) -> str:
    return re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(document: Path) -> set[str]:
    """GitHub's names of the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[tuple[Path, str]]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if not target.startswith(("http:", "https:")):
            path, _, anchor = target.partition("#")
            yield document.parent / path if path else document, anchor


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(document):
    for path, anchor in links(document):
        assert path.exists(), f"{document.name} names {path}"
        assert not anchor or anchor in anchors(path), f"{document.name} names #{anchor} of {path}"


def test_the_index_leads_to_every_published_experiment():
    folders = {path.parent for path in ROOT.glob("results/*/results.csv")}
    assert folders and folders <= {path.parent.resolve() for path, _ in links(ROOT / "results/README.md")}


@pytest.mark.parametrize("script", ["ablations/together.py", "updates/begin.py"])
def test_what_a_script_says_of_published_runs_stands_on_its_page(script):
    script = ROOT / "results" / script
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert printed.count("\n") > 10 and printed in script.with_name("README.md").read_text(encoding="utf-8")


def intervals(document: Path) -> list[tuple[str, str, str]]:
    return re.findall(r"(\d+\.\d+) \[(\d+\.\d+), (\d+\.\d+)\]", " ".join(prose(document).split()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_interval_stands_in_a_published_table(document):
    """With fewer digits where they are given with fewer; a run more in an experiment moves those of the others."""
    published = [tuple(map(float, row)) for table in ROOT.glob("results/*/table.md") for row in intervals(table)]
    assert published
    for row in intervals(document):
        error = 0.5001 * 10 ** -len(row[0].partition(".")[2])
        there = any(all(abs(a - float(b)) <= error for a, b in zip(own, row, strict=True)) for own in published)
        assert there, f"{row[0]} [{row[1]}, {row[2]}]"


@pytest.mark.parametrize("algorithm", ["mmsa", "qmix", "mappo"])
def test_every_metric_is_explained(algorithm, tmp_path):
    words = ["env_args.key=climbing", "seed=1", "t_max=400", "test_interval=200", "batch_size=10", "test_nepisode=2"]
    command = [sys.executable, "src/main.py", f"--config={algorithm}", "--env-config=matrix", "with", *words]
    subprocess.run([*command, f"local_results_path={tmp_path}"], cwd=ROOT, check=True, capture_output=True)
    (metrics,) = tmp_path.glob("sacred/*/*/1/metrics.json")
    logged = {re.sub(r"^test_|_\d+$", "", name) for name in json.loads(metrics.read_text())}
    pages = prose(ROOT / "src/README.md") + prose(ROOT / "plugins/mmsa/README.md")
    sections = re.findall(r"^## (?:Metrics|Losses)\n(.*?)(?=^## )", pages, re.S | re.M)
    rows = re.findall(r"^\| (`.*?) \|", "".join(sections), re.M)
    explained = {re.sub(r"_[A-Z]$", "", name) for row in rows for name in re.findall(r"`(\w+)`", row)}
    losses = {f"mmsa_loss_{name}" for name in explained}  # of which `mmsa_loss_NAME` is the row
    assert len(logged) > 8 and logged - losses <= explained
