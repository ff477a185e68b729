"""The report: planted numbers reach the page, sums that do not hold stop it, and nothing heavy or private gets in."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lcm.config import Report
from lcm.evaluation.figures import zscored
from lcm.evaluation.flow import public
from lcm.evaluation.metrics import not_run
from lcm.evaluation.preprocessing import preprocessing_rows, read_runs
from lcm.evaluation.quality import censoring_limit, inspect
from lcm.evaluation.report import main
from lcm.evaluation.study import read_evaluated
from lcm.evaluation.table_one import VOCABULARY
from lcm.imaging.preprocessed import write_runs
from lcm.result_tables import COMPARISONS, SCORES, write_predictions
from lcm.tables import (
    COHORT_FLOW,
    OUTCOMES,
    RUNS,
    SCANS,
    SITE_EFFECTS,
    TABLE_ONE,
    read_arrow,
    read_tsv,
    write_arrow,
    write_tsv,
)
from tests.planted_probes import plant_probes
from tests.planted_results import CENSORED, NUM_VOLUMES, PRIVATE, REGIONS, STRATEGIES, plant, plant_all, plant_model


def report(
    results: Path,
    *,
    verdict: bool = False,
    strategies: Sequence[str] = STRATEGIES,
    asked: str | None = None,
    **settings: object,
) -> int | None:
    settings = Report.model_validate(settings)
    return main(
        argparse.Namespace(
            asked=asked,
            table=None,
            strategies=list(strategies),
            atlas="AAL",
            results=results,
            output=results / "report",
            vocabulary=VOCABULARY,
            verdict=verdict,
            settings=settings,
        )
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A tree that a test may damage."""
    return plant(tmp_path)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with its report written."""
    results = plant_probes(plant_all(tmp_path_factory.mktemp("results")))
    report(results)
    return results


@pytest.fixture(scope="module")
def page(reported: Path) -> str:
    return (reported / "report" / "index.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """All elements of a page with their attributes, and whether every one that was opened was closed."""

    VOID = frozenset({"meta", "link", "img", "br", "line", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def read_scores(results: Path) -> pd.DataFrame:
    return read_evaluated(results, "scores.tsv", SCORES)


def test_every_score_of_the_tables_is_on_the_page(reported, page):
    scores = read_scores(reported)
    assert set(scores["protocol"]) == {"honest", "leave-site-out", "paper"}
    for row in scores.dropna(subset=["value"]).itertuples():
        if row.cohort == "all":
            digits = 2 if row.metric == "mae" else 3
            assert f">{row.value:.{digits}f}<".replace("-0.000", "0.000").replace("-", "−") in page, row.metric


def test_planted_accuracy_is_what_the_benchmark_says(reported):
    scores = read_tsv(reported / "report" / "benchmark.tsv", SCORES)
    scores = scores.set_index(["protocol", "model", "task", "subset", "cohort", "metric"])["value"]
    assert scores["honest", "lcm", "autism", "all", "all", "accuracy"] == 0.8
    assert scores["honest", "lcm", "age", "all", "all", "mae"] == pytest.approx(3.0)
    assert scores["honest", "majority", "autism", "all", "all", "auroc"] == 0.5


def test_the_benchmark_file_is_the_scores_of_evaluate(reported):
    pd.testing.assert_frame_equal(read_tsv(reported / "report" / "benchmark.tsv", SCORES), read_scores(reported))


def section(page: str, name: str) -> str:
    """The part of the page with that id."""
    start = page.index(f'<section id="{name}"')
    return page[start : page.index("</section>", start)]


def test_an_optimistic_protocol_is_labelled_and_never_best_nor_in_the_headline(page):
    optimistic = section(page, "optimistic")
    assert "The epoch was chosen on the people it is tested on" in optimistic
    assert "protocol paper" in optimistic
    assert 'class="score best"' not in optimistic
    assert "paper" not in section(page, "benchmark")
    assert "paper" not in section(page, "comparisons")
    assert "leave-site-out" in section(page, "protocols")
    assert "leave-site-out" not in section(page, "benchmark")


def test_comparisons_are_against_the_reference_on_the_same_people(reported, page):
    table = read_tsv(reported / "report" / "comparisons.tsv", COMPARISONS).set_index(["protocol", "task", "model"])
    assert set(table.index.get_level_values("protocol")) == {"honest", "leave-site-out"}
    row = table.loc[("honest", "age", "lcm")]
    assert row["reference"] == "ridge"
    assert row["difference"] == pytest.approx(-3.0)
    assert row["p_holm"] >= row["p"]
    assert ">−3.000<" in section(page, "comparisons")
    assert "leave-site-out, autism, lcm: not compared" in section(page, "comparisons")


def test_overlap_decodability_cost_and_balance_stand_on_the_page(page):
    checks = section(page, "checks")
    rows = [re.findall(r">([^<>]+)</t[hd]>", row) for row in checks.split("<tr>")]
    assert ["choice", "honest", "autism", "lcm", "42", "0", "0 of 3", "clean"] in rows
    assert ["choice", "paper", "autism", "lcm", "42", "42", "3 of 3", "by design"] in rows
    assert ["lcm", "honest", "autism", "site", "balanced accuracy", "0.800", "0.700", "0.900", "0.500", "3"] in rows
    assert ["lcm", "honest", "autism", "cpu", "1,234,567", "n/a", "12.5", "n/a", "1.2"] in rows
    assert "motion tertile: not run: unknown." in checks
    benchmark = section(page, "benchmark")
    assert ["age", "abide", "0.61", "0.04", "12"] in [
        re.findall(r">([^<>]+)</t[hd]>", row) for row in benchmark.split("<tr>")
    ]


def test_the_people_of_each_fold_are_printed(reported, page):
    rows = [re.findall(r">([^<>]+)</t[hd]>", row) for row in section(page, "benchmark").split("<tr>")]
    assert ["0", "7", "7", "14", "26"] in rows
    assert ["2", "6", "6", "12", "26"] in rows
    csv = pd.read_csv(reported / "report" / "tables" / "folds-honest-autism.csv")
    assert csv["Test people"].sum() == 40


def test_the_figures_of_a_task_state_its_numbers(page):
    alts = [attributes["alt"] or "" for attributes in Elements(section(page, "figures")).of("img")]
    (curve,) = (alt for alt in alts if alt.startswith("ROC"))
    assert "lcm: AUROC 0.802 [" in curve
    assert "ridge: AUROC 1.000" in curve
    assert "majority" not in curve
    (matrix,) = (alt for alt in alts if alt.startswith("Confusion"))
    assert "control named right 80 %" in matrix
    assert any("MAE 3.00" in alt for alt in alts)
    assert len(alts) == 5


def test_the_attention_map_names_the_region_with_most_of_it(page):
    (alt,) = (attributes["alt"] or "" for attributes in Elements(section(page, "attention")).of("img"))
    assert f"Largest: {REGIONS[0]} 10.00" in alt


def test_group_means_name_the_groups_and_their_difference(page):
    (alt,) = (attributes["alt"] or "" for attributes in Elements(section(page, "groups")).of("img"))
    assert "abide by autism (20 control, 20 autism)" in alt
    assert "autism less control: mean over edges" in alt


def test_what_is_not_asked_for_any_more_is_not_shown(reported, tmp_path):
    results = shutil.copytree(reported, tmp_path / "results", ignore=shutil.ignore_patterns("report"))
    rows = [["ridge", "age"], ["majority", "age"]]
    asked = {"protocols": {"honest": {"select": "validation", "design": "stratified", "rows": rows}}}
    report(results, asked=json.dumps(asked))
    scores = read_tsv(results / "report" / "benchmark.tsv", SCORES)
    assert set(zip(scores["protocol"], scores["model"], scores["task"], strict=True)) == {
        ("honest", "ridge", "age"),
        ("honest", "majority", "age"),
    }
    text = (results / "report" / "index.html").read_text(encoding="utf-8")
    assert "Protocol honest (people in folds, stratified)." in text
    assert 'id="optimistic"' not in text
    assert 'id="task-autism"' not in text


def test_every_table_of_results_lies_beside_the_page_as_csv_and_latex(reported):
    folder = reported / "report" / "tables"
    for name in ("scores-honest-autism", "scores-paper-autism", "comparisons-honest", "overlap", "decodability"):
        assert len(pd.read_csv(folder / f"{name}.csv")) > 0
        assert r"\toprule" in (folder / f"{name}.tex").read_text(encoding="utf-8")
    assert "Optimistic" in (folder / "scores-paper-autism.tex").read_text(encoding="utf-8")


def test_outcomes_count_every_scan_once(reported):
    counts = read_tsv(reported / "report" / "outcomes.tsv", OUTCOMES)
    found = {(row.dataset, row.outcome): row.count_ for row in counts.rename(columns={"count": "count_"}).itertuples()}
    assert found == {
        ("RAW", "ok"): 2,
        ("RAW", "excluded: 0.5 min kept, 2 needed"): 1,
        ("RAW", "failed: a file is truncated"): 1,
        ("READY", "ok"): 40,
    }
    assert counts["count"].sum() == len(read_tsv(reported / "index" / "scans.tsv", SCANS))


def test_the_page_says_which_stage_refused_a_scan(page):
    row = page[page.index('id="outcome-table"') :]
    assert row.index("<td>denoise</td>") < row.index("0.5 min kept")
    assert row.index("<td>preprocess</td>") < row.index("is truncated")


def test_a_lost_scan_stops_the_report(results):
    path = results / "correlate" / "9P" / "READY" / "batch-0.arrow"
    write_arrow(read_arrow(path).slice(1), path)
    with pytest.raises(ValueError, match=r"READY.*do not add up.*1 have no outcome"):
        report(results)
    assert not (results / "report").exists()


def test_a_scan_that_was_never_indexed_stops_the_report(results):
    path = results / "index" / "scans.tsv"
    write_tsv(read_tsv(path, SCANS).iloc[:-1], path, SCANS)
    with pytest.raises(ValueError, match="1 outcomes have no indexed scan"):
        report(results)


@pytest.mark.parametrize("step", ["rows kept", "people matched", "scans matched", "scans indexed"])
def test_a_cohort_flow_that_does_not_add_up_stops_the_report(results, step):
    path = results / "harmonize" / "cohort_flow.tsv"
    flow = read_tsv(path, COHORT_FLOW)
    place = flow[(flow["cohort"] == "abide") & (flow["step"] == step)].index[0]
    flow.loc[place, "count"] += 1
    write_tsv(flow, path, COHORT_FLOW)
    with pytest.raises(ValueError, match="cohort abide"):
        report(results)


def test_a_cohort_flows_down_to_its_connectomes(page):
    card = page[page.index("<strong>hcpa</strong>") : page.index("<strong>abide</strong>")]
    numbers = [part.split("<")[0] for part in card.split('class="number">')[2:]]
    assert numbers == ["11", "−2", "9", "9", "−5", "4", "4", "4", "4", "−1", "−1", "2", "4", "−2", "2"]


def test_table_one_of_the_page_is_the_file(reported, page):
    table = read_tsv(reported / "report" / "table_one.tsv", TABLE_ONE).set_index(
        ["cohort", "group", "variable", "level"]
    )
    people = table.loc[("abide", slice(None), "people"), "value"].droplevel(["cohort", "variable", "level"])
    assert people.to_dict() == {"all": "40", "autism: control": "20", "autism: autism": "20"}
    section = page[page.index('id="people"') : page.index('id="labels"')]
    row = section[section.index('<th scope="row">Sex: female</th>') :].split("</tr>")[0]
    assert re.findall(r"number\">([^<]+)<", row) == ["10 (25.0 %)", "10 (50.0 %)", "0 (0.0 %)"]


def test_assumed_labels_are_told_from_observed_ones(page):
    section = page[page.index('id="labels"') : page.index('id="sites"')]
    row = section[section.index('<td class="name">alzheimers') :].split("</tr>")[0]
    assert '<span class="badge">assumed</span>' in row
    assert "control 4 (assumed)" in row
    assert re.findall(r'data-value="(\d+)"', row) == ["0", "4", "0"]
    assert section.count('<span class="badge">assumed') == 1


def test_planted_motion_is_in_the_site_section_and_what_was_not_run_says_why(reported, page):
    table = read_tsv(reported / "report" / "site_effects.tsv", SITE_EFFECTS).set_index(
        ["cohort", "predicted", "combat"]
    )
    assert table.loc[("abide", "motion", "off"), "value"] > 0.9
    section = page[page.index('id="sites"') : page.index('id="outcomes"')]
    assert f">{table.loc[('abide', 'motion', 'off'), 'value']:.2f}<" in section
    assert "hcpa, motion: not run: 2 people with known head motion, 30 needed." in section


@pytest.fixture(scope="module")
def public_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = plant_probes(plant_all(tmp_path_factory.mktemp("public")))
    report(results, share="public")
    return results / "report" / "index.html"


def test_a_public_report_hides_what_few_people_have(public_page, page):
    text = public_page.read_text(encoding="utf-8")
    assert "Small counts are hidden." in text
    assert "Small counts are hidden." not in page
    flow = text[text.index("<strong>hcpa</strong>") : text.index("<strong>abide</strong>")]
    assert [part.split("<")[0] for part in flow.split('class="number">')[2:]] == [
        *("hidden", "&lt;5*", "hidden", "hidden", "−5", "hidden", "hidden", "hidden", "hidden"),
        *("&lt;5*", "&lt;5*", "&lt;5*", "hidden", "&lt;5*", "&lt;5*"),
    ]
    table = read_tsv(public_page.with_name("table_one.tsv"), TABLE_ONE)
    assert set(table.loc[table["cohort"] == "hcpa", "value"].dropna()) == {"<5*", "hidden"}
    counts = read_tsv(public_page.with_name("outcomes.tsv"), OUTCOMES).set_index(["dataset", "outcome"])["count"]
    assert counts["RAW"].isna().all()
    assert counts["READY", "ok"] == 40


def num_images(text: str) -> int:
    """Images of the page but those beside papers."""
    beside = [len(Elements(section(text, name)).of("img")) for name in ("papers", "brainlm")]
    return len(Elements(text).of("img")) - sum(beside)


def test_a_public_report_shows_no_single_scan_and_no_dataset_of_few(public_page):
    text = public_page.read_text(encoding="utf-8")
    shown = text[text.index('id="quality"') : text.index('id="methods"')]
    assert 'scope="row">RAW<' not in shown
    assert 'scope="row">READY<' in shown
    assert not any(word in shown for word in ("Carpet", "Registration", "Histogram of mean framewise"))
    assert "Confusion matrices" not in text
    assert num_images(text) == 10


def test_networks_that_read_series_have_their_section_without_single_people_in_public(page, reported, public_page):
    public_text = public_page.read_text(encoding="utf-8")
    for text, folder, figures in ((page, reported / "report", "34567"), (public_text, public_page.parent, "467")):
        assert '<a href="#brainlm">BrainLM</a>' in text
        section = text[text.index('<section id="brainlm"') :]
        headings = re.findall(r"<h3>(.+?)</h3>", section[: section.index("</section>")])
        assert headings == [
            "Masked reconstruction",
            "Clinical variables (Table 1)",
            "Forecasts (Table 2)",
            "Functional networks (Table 3)",
        ]
        # Of the planted levels the first region differs alone.
        assert "intervals of 1 of 20 regions leave out 0" in section
        drawn = {path.stem for path in (folder / "tables").glob("figure-brainlm-*.png")}
        assert drawn == {f"figure-brainlm-{number}" for number in figures}
        assert (folder / "tables" / "table-brainlm-reconstruction.tex").is_file()


def test_the_verdict_of_a_public_report_says_at_least_how_many(public_page, capsys):
    assert report(public_page.parents[1], verdict=True) == 1
    said = capsys.readouterr().out.splitlines()[0]
    assert said == "40 or more scans: 40 or more ok, 0 or more excluded, 0 or more failed"


def test_no_participant_is_named(reported, page):
    assert PRIVATE not in page
    for name in ("benchmark.tsv", "outcomes.tsv", "table_one.tsv", "site_effects.tsv"):
        assert PRIVATE not in (reported / "report" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        ("failed: sub-01_ses-2_task-rest_bold.nii.gz is truncated", "failed: a file is truncated"),
        ("failed: /data/x/sub-01/func/sub-01_bold.nii.gz: no TR", "failed: a file: no TR"),
        ("failed: sub-01_task-rest_run-1 has no TR", "failed: one scan has no TR"),
        ("failed: Leuven_1_0050682_rois_aal.1D.gz: 3 columns", "failed: a file: 3 columns"),
        ("failed: UM_1_0050302 has 3 columns", "failed: one scan has 3 columns"),
        ("excluded: 1.5 min kept, 2 needed", "excluded: 1.5 min kept, 2 needed"),
        ("ok", "ok"),
    ],
)
def test_outcomes_lose_file_and_participant_names(outcome, shown):
    assert public(outcome) == shown


def test_torch_is_never_imported(results):
    code = (
        "import sys; from lcm.__main__ import main\n"
        f"assert main(['report', '--results', {str(results)!r}, '--output', {str(results / 'report')!r}, "
        "'--strategies', '9P', '36P']) == 0\n"
        "heavy = {'torch', 'nibabel', 'nilearn', 'ants'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (results / "report" / "record.json").is_file()


def test_the_verdict_names_the_page_and_fails_when_a_scan_failed(reported, capsys):
    assert report(reported, verdict=True) == 1
    said = capsys.readouterr().out
    assert said == f"44 scans: 42 ok, 1 excluded, 1 failed\n{reported / 'report' / 'index.html'}\n"


def test_the_verdict_passes_without_a_failure(reported, tmp_path, capsys):
    counts = read_tsv(reported / "report" / "outcomes.tsv", OUTCOMES)
    write_tsv(counts[~counts["outcome"].str.startswith("failed")], tmp_path / "report" / "outcomes.tsv", OUTCOMES)
    assert report(tmp_path, verdict=True) == 0
    assert "42 ok, 1 excluded" in capsys.readouterr().out


def test_the_page_needs_no_network(page):
    elements = Elements(page)
    assert not elements.open
    for _, attributes in elements.found:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "@import" not in page
    assert "url(" not in page


def test_tables_and_figures_can_be_read_aloud(page):
    elements = Elements(page)
    assert len(elements.of("caption")) == len(elements.of("table"))
    assert all(attributes.get("scope") in ("col", "row", "colgroup", "rowgroup") for attributes in elements.of("th"))
    assert num_images(page) == 18
    assert all(len(attributes["alt"] or "") > 20 for attributes in elements.of("img"))


def test_methods_settings_and_versions_come_from_the_records(page):
    for stage in ("index", "denoise", "correlate", "finetune"):
        assert f"The planted sentence of {stage}." in page
    assert "12345" in page
    assert "2.4.0" in page
    assert "Simulated cohorts" not in page


def test_quality_finds_the_planted_homotopic_correlation_and_coverage(reported):
    quality = inspect(reported, "9P", "READY", ["batch-0"], num_overlays=3)
    assert quality is not None
    assert quality.regions == REGIONS
    assert quality.homotopic_fc == pytest.approx(0.5, abs=0.04)
    assert abs(np.nanmean(quality.scans["mean_fc"])) < 0.1
    assert np.median(quality.coverage_NR, axis=0)[-1] == pytest.approx(0.3)
    assert quality.example is not None
    assert quality.example.before_TR is None
    assert np.flatnonzero(~quality.example.kept_T).tolist() == list(CENSORED)
    assert quality.example.after_TR.shape == (NUM_VOLUMES, len(REGIONS))


def test_a_dataset_without_a_usable_scan_has_no_quality(results):
    path = results / "correlate" / "9P" / "RAW" / "batch-0.arrow"
    write_arrow(read_arrow(path).slice(0, 2), path)
    assert inspect(results, "9P", "RAW", ["batch-0"], num_overlays=3) is None


def test_series_that_came_denoised_have_no_carpet_but_a_connectome_under_the_first_strategy(results):
    path = results / "correlate" / "9P" / "READY" / "batch-0.arrow"
    table = read_arrow(path)
    came_denoised = table.replace_schema_metadata(table.schema.metadata | {b"strategy": b"denoised elsewhere"})
    write_arrow(pa.Table.from_pylist(came_denoised.to_pylist(), schema=came_denoised.schema), path)
    shutil.rmtree(results / "correlate" / "36P" / "READY")
    for strategy in STRATEGIES:
        shutil.rmtree(results / "denoise" / strategy / "READY")
    quality = inspect(results, "9P", "READY", ["batch-0"], num_overlays=3)
    assert quality is not None
    assert quality.example is None
    report(results)
    text = (results / "report" / "index.html").read_text(encoding="utf-8")
    assert len(Elements(text).of("img")) == 11
    motion = text[text.index('id="motion"') : text.index('id="methods"')]
    assert motion.count('<th scope="row">READY</th>') == 1
    assert '<td class="name">denoised elsewhere</td>' in motion


def test_a_strategy_without_its_connectomes_stops_the_report(results):
    shutil.rmtree(results / "correlate" / "36P" / "READY")
    with pytest.raises(FileNotFoundError, match="36P/READY"):
        report(results)


def test_a_report_without_strategies_says_what_is_missing(results):
    with pytest.raises(ValueError, match="--strategies is missing"):
        report(results, strategies=[])


def test_motion_stands_on_the_page_for_every_dataset_and_strategy(page):
    motion = page[page.index('id="motion"') : page.index('id="methods"')]
    rows = [re.findall(r">([^<>]+)</t[hd]>", row) for row in motion.split("<tbody>")[1].split("<tr>")[1:]]
    assert [row[:2] for row in rows] == [["RAW", "9P"], ["RAW", "36P"], ["READY", "9P"], ["READY", "36P"]]
    usable, refused, kept, people = ([row[place] for row in rows] for place in (2, 3, 4, 6))
    assert usable == ["2", "1", "40", "40"]
    assert refused == ["1", "2", "0", "0"]
    assert set(kept) == {"95"}
    assert people == usable
    assert [row[7:] for row in rows[:2]] == [["n/a"] * 3] * 2
    assert "n/a: fewer than 10 scans with motion: RAW." in motion
    (planted, share, distance), (removed, rest, _) = ([float(x.replace("−", "-")) for x in row[7:]] for row in rows[2:])
    assert planted > 3 * removed
    assert share > 50 > 15 > rest
    assert distance < -0.6


def test_windows_count_as_one_scan_in_outcomes_and_quality(results):
    path = results / "correlate" / "9P" / "READY" / "batch-0.arrow"
    table = read_arrow(path)
    before = inspect(results, "9P", "READY", ["batch-0"], num_overlays=3)
    rows = [row | {"window": window, "num_kept": 25} for row in table.to_pylist() for window in (0, 1)]
    write_arrow(pa.Table.from_pylist(rows, schema=table.schema), path)
    report(results)
    assert read_tsv(results / "report" / "outcomes.tsv", OUTCOMES)["count"].sum() == 44
    quality = inspect(results, "9P", "READY", ["batch-0"], num_overlays=3)
    assert before is not None
    assert quality is not None
    assert len(quality.scans) == len(quality.coverage_NR) == 40
    assert quality.median("num_kept") == 50
    np.testing.assert_allclose(quality.mean_fc_RR, before.mean_fc_RR, rtol=1e-6)


def test_a_repeated_row_and_windows_that_disagree_stop_the_report(results):
    path = results / "correlate" / "9P" / "READY" / "batch-0.arrow"
    table = read_arrow(path)
    rows = table.to_pylist()
    for extra in (rows[0], rows[0] | {"window": 1, "outcome": "excluded: fewer than 30 volumes kept"}):
        write_arrow(pa.Table.from_pylist([*rows, extra], schema=table.schema), path)
        with pytest.raises(ValueError, match="1 are counted twice"):
            report(results)


@pytest.mark.parametrize(("fisher_z", "scale"), [(b"true", np.arctanh), (b"false", lambda r: r)])
def test_stored_fisher_z_is_not_transformed_twice(results, fisher_z, scale):
    path = results / "correlate" / "9P" / "READY" / "batch-0.arrow"
    before = inspect(results, "9P", "READY", ["batch-0"], num_overlays=3)
    table = read_arrow(path)
    rows = [row | {"fc": scale(np.array(row["fc"])).tolist()} for row in table.to_pylist()]
    schema = table.schema.with_metadata(table.schema.metadata | {b"fisher_z": fisher_z})
    write_arrow(pa.Table.from_pylist(rows, schema=schema), path)
    after = inspect(results, "9P", "READY", ["batch-0"], num_overlays=3)
    assert before is not None
    assert after is not None
    np.testing.assert_allclose(after.mean_fc_RR, before.mean_fc_RR, atol=1e-5)
    assert after.median("mean_fc") == pytest.approx(before.median("mean_fc"), abs=1e-5)


def test_covariances_are_averaged_as_they_are(results):
    path = results / "correlate" / "9P" / "READY" / "batch-0.arrow"
    table = read_arrow(path)
    rows = [row | {"fc": (100 * np.array(row["fc"])).tolist()} for row in table.to_pylist()]
    schema = table.schema.with_metadata(table.schema.metadata | {b"kind": b"covariance"})
    write_arrow(pa.Table.from_pylist(rows, schema=schema), path)
    quality = inspect(results, "9P", "READY", ["batch-0"], num_overlays=3)
    assert quality is not None
    mean_E = np.mean([row["fc"] for row in rows], axis=0)
    np.testing.assert_allclose(quality.mean_fc_RR[np.triu_indices(len(REGIONS), k=1)], mean_E, rtol=1e-5, atol=1e-6)


def change_runs(results: Path, **columns: object) -> None:
    """Change the first usable run of RAW."""
    path = sorted((results / "preprocess" / "RAW").glob("*/*_runs.tsv"))[1]
    write_tsv(read_tsv(path, RUNS).assign(**columns), path, RUNS)


def people(results: Path) -> list[str]:
    """Everyone in the index."""
    return read_tsv(results / "index" / "scans.tsv", SCANS)["participant_id"].to_list()


def preprocessing_cells(results: Path, kind: str = "bids") -> list[str]:
    (row,) = preprocessing_rows(results, {"RAW": read_runs(results, "RAW", people(results))}, {"RAW": kind})
    return row.cells


def test_preprocessing_says_what_was_done_to_the_runs_that_came_through(results):
    space = "MNI152NLin2009aSym"
    assert preprocessing_cells(results) == [
        "3",
        space,
        "corrected to 0.975 s",
        "none (built-in backend)",
        "1",
        "0.93",
        "0.91",
    ]
    change_runs(results, slice_timing="none in JSON", num_non_steady=4)
    assert preprocessing_cells(results)[2:5:2] == ["corrected to 0.975 s (2), none in JSON (1)", "1–4"]


def test_what_people_who_left_the_study_leave_behind_does_not_count(results):
    folder = results / "preprocess" / "RAW"
    before = preprocessing_cells(results)
    table, record = sorted(folder.glob("*/*_runs.tsv"))[1], next(folder.glob("*/record.json"))
    (figure,) = folder.glob("*/figures/*")
    run = read_tsv(table, RUNS).assign(participant_id="sub-gone", scan="sub-gone_task-rest", dice_template=0.1)
    write_runs(run, folder / "sub-gone")
    (folder / "sub-gone" / "figures").mkdir()
    shutil.copy(figure, folder / "sub-gone" / "figures" / "sub-gone_task-rest_desc-registration.png")
    other = record.read_text(encoding="utf-8").replace("builtin", "fmriprep")
    (folder / "sub-gone" / "record.json").write_text(other, encoding="utf-8")
    assert preprocessing_cells(results) == before
    quality = inspect(results, "9P", "RAW", ["batch-0"], num_overlays=3)
    assert quality is not None
    assert quality.overlays == [figure]
    report(results)
    text = (results / "report" / "index.html").read_text(encoding="utf-8")
    assert "fMRIPrep's own" not in text
    assert "fMRIPrep&#39;s own" not in text


@pytest.mark.parametrize(
    ("kind", "backend", "expected"),
    [
        ("bids", "fmriprep", "fMRIPrep's own"),
        ("hcp", "builtin", "HCP pipelines' own"),
        ("ukb", "builtin", "UK Biobank's own"),
    ],
)
def test_distortion_correction_is_the_backends_or_the_inputs(results, kind, backend, expected):
    path = next((results / "preprocess" / "RAW").glob("*/record.json"))
    path.write_text(path.read_text(encoding="utf-8").replace("builtin", backend), encoding="utf-8")
    assert preprocessing_cells(results, kind)[3] == expected


def test_more_than_one_template_in_a_dataset_is_a_warning(results, page):
    assert "More than one template" not in page
    change_runs(results, template="MNI152NLin6Asym")
    report(results)
    text = (results / "report" / "index.html").read_text(encoding="utf-8")
    assert "RAW: runs were brought to 2 templates (MNI152NLin2009aSym, MNI152NLin6Asym)" in text


def test_datasets_that_came_preprocessed_have_no_preprocessing_row(results):
    runs = read_runs(results, "READY", people(results))
    assert runs.empty
    assert preprocessing_rows(results, {"READY": runs}, {"READY": "series"}) == []


@pytest.mark.parametrize(("strategy", "limit"), [("9P", 0.5), ("36P-scrub02", 0.2)])
def test_the_censoring_limit_is_the_strategys_own_where_it_has_one(results, strategy, limit):
    source, target = (results / "denoise" / name / "RAW" / "batch-0.json" for name in ("9P", strategy))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(source.read_text(encoding="utf-8").replace("9P.yaml", f"{strategy}.yaml"), encoding="utf-8")
    assert censoring_limit(results, strategy, "RAW", ["batch-0"]) == limit


def test_a_study_without_models_still_has_a_page(results):
    report(results, title="Only images")
    text = (results / "report" / "index.html").read_text(encoding="utf-8")
    assert "No model was evaluated" in text
    assert "<h1>Only images</h1>" in text


def test_a_constant_region_is_flat_in_the_carpet():
    scored_TR = zscored(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_allclose(scored_TR, [[-1, 0], [0, 0], [1, 0]])


def test_a_censored_volume_is_a_gap_in_the_carpet_and_not_the_end_of_it():
    nan = np.nan
    scored_TR = zscored(np.array([[1.0, nan], [nan, nan], [2.0, nan], [3.0, nan]]))
    np.testing.assert_allclose(scored_TR, [[-1, 0], [nan, nan], [0, 0], [1, 0]])


def not_run_row(model: str, task: str, reason: str) -> pd.DataFrame:
    named = {"protocol": "honest", "select": "validation", "group": "network", "subset": "all"}
    return not_run(reason, model=model, task=task, **named)


def test_a_task_that_could_not_be_answered_is_named_with_its_reason(tmp_path):
    results = plant(tmp_path)
    plant_model(results, "ridge", "age")
    folder = results / "evaluate" / "honest"
    for model in ("majority", "ridge", "lcm"):
        rows = not_run_row(model, "sex", "fold 1: nobody <knows>")
        write_tsv(rows, folder / model / "sex" / "scores.tsv", SCORES)
    write_tsv(not_run_row("lcm", "age", "no test person"), folder / "lcm" / "age" / "scores.tsv", SCORES)
    report(results)
    text = (results / "report" / "index.html").read_text(encoding="utf-8")
    assert "sex was not run for lcm, majority, ridge: fold 1: nobody &lt;knows&gt;." in text
    assert "age was not run for lcm: no test person." in text
    assert 'id="task-sex"' not in text
    benchmark = read_tsv(results / "report" / "benchmark.tsv", SCORES)
    assert benchmark["metric"].str.startswith("not run: ").sum() == 4


def test_a_study_without_one_answer_still_has_a_page(results):
    for model in ("majority", "lcm"):
        folder = results / "evaluate" / "honest" / model / "autism"
        write_tsv(not_run_row(model, "autism", "nobody"), folder / "scores.tsv", SCORES)
        write_predictions(pd.DataFrame(), folder / "predictions.parquet")
    report(results)
    text = (results / "report" / "index.html").read_text(encoding="utf-8")
    assert "No model was evaluated" in text
    assert "autism was not run for lcm, majority: nobody." in text
