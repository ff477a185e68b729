"""Figures 2, 3, 6 and 7 of the LCM paper, and scaling at fixed depth: published points, ours as the paper does, ours honest.

What is known of a figure stands in its file of lcm/evaluation/published, in `confidence` and `prose`, and in its caption.
Figure 2 is not described in what we have of the paper: sex and age in seven cohorts stand in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lcm.evaluation.figures import BLUE, INK, MUTED, ORANGE, blank, finished, plain, style_of
from lcm.evaluation.paper_answers import (
    HONEST,
    MEASURES,
    OPTIMISTIC,
    Entry,
    StudyAnswers,
    mean_entry,
    mean_squared_error,
)
from lcm.evaluation.paper_points import (
    STYLES,
    PaperFigure,
    known,
    legend,
    numbers_of,
    paper_figure_of,
    point,
    scatter,
)
from lcm.evaluation.paper_tables import PUBLISHED, SOURCES
from lcm.evaluation.published import (
    DepthFigure,
    LayerFigure,
    SexAndAge,
    TimeFigure,
    read_folds,
    read_logs,
    read_parameters,
    read_published,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BARS = "Bars: deviation over folds of published and optimistic values, the 95 % interval of honest ones."
"""What a reach means, of the figures that draw one."""
MARKERS = "osD^vPX"
"""One a data set, so that lines are told apart without colour."""


def paper_figure(name: str, answers: StudyAnswers) -> PaperFigure:
    """The figure of that name, one of FIGURES."""
    return FIGURES[name](answers)


def _of_source(answers: StudyAnswers, source: str, model: str, tasks: Sequence[str]) -> Entry:
    """Weighted F1 of ours in percent, mean over tasks."""
    if source == OPTIMISTIC:
        return mean_entry([answers.over_folds(source, model, task, MEASURES["f1_weighted"]) for task in tasks])
    return mean_entry([answers.scored(model, task, "f1_weighted") for task in tasks])


def figure_2(answers: StudyAnswers) -> PaperFigure:
    """Sex and age in seven cohorts by the pretrained network: what Figure 2 shows is not known to us, this is assumed."""
    described = read_published("lcm_figure_2", SexAndAge)
    stored = read_folds().data
    sexes, ages = "weighted F1 of sex (%)", "RMSE of age (years)"
    points = []
    for x, (name, column) in enumerate(described.columns.items()):
        f1 = 100 * np.array(stored[name]["sex_f1_weighted"])
        rmse = _rooted(Entry(float(np.mean(stored[name]["age_squared_error"]))))
        points.append(point(sexes, column.label, x, PUBLISHED, Entry(float(f1.mean()), float(f1.std(ddof=0)))))
        points.append(point(ages, column.label, x, PUBLISHED, rmse))
        sex, age = column.tasks
        for source in (OPTIMISTIC, HONEST):
            points.append(point(sexes, column.label, x, source, _of_source(answers, source, described.model, [sex])))
            own = answers.over_folds(source, described.model, age, mean_squared_error)
            points.append(point(ages, column.label, x, source, _rooted(own)))
    numbers = numbers_of(points)
    figure = blank(7.2, 3.0)
    panels = figure.subplots(1, 2)
    labels = [column.label for column in described.columns.values()]
    for axes, panel in zip(panels, (sexes, ages), strict=True):
        scatter(axes, numbers[numbers["panel"] == panel], answers, shift=0.18)
        axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
        axes.set_ylabel(panel)
        plain(axes)
    legend(figure, panels)
    rooted = "The error of age is the root of the mean of the folds' squared errors, without a bar."
    prose = f"{described.prose.strip()} {BARS} {rooted}"
    return paper_figure_of("figure-2", f"{described.title} ({described.confidence})", prose, numbers, figure)


def _rooted(squared: Entry) -> Entry:
    """A mean squared error over folds as an error in the target's unit; its deviation is in squares and is left out."""
    return replace(squared, value=float(np.sqrt(squared.value)), spread=float("nan"))


def figure_3(answers: StudyAnswers) -> PaperFigure:
    """Weighted F1 of autism against GPU-hours of pretraining, hours on a logarithmic axis as in the paper."""
    described = read_published("lcm_figure_3", TimeFigure)
    points = []
    for named in described.points:
        hours = named.gpu_hours(described.samples)
        points.append(point("", named.name, np.nan if hours is None else hours, PUBLISHED, Entry(named.f1_weighted)))
        for source in (OPTIMISTIC, HONEST) if named.model else ():
            own = _of_source(answers, source, str(named.model), [described.task])
            seconds = answers.cost(source, str(named.model), "pretrain_seconds")
            points.append(point("", named.name, seconds.value / 3600 / max(own.num_folds, 1), source, own))
    numbers = numbers_of(points)
    figure = blank(5.6, 3.4)
    axes = figure.subplots()
    placed = numbers[numbers["x"] > 0]
    scatter(axes, placed, answers)
    _name_points(axes, numbers[numbers["value"].notna()])
    axes.set_xscale("log")
    shown = sorted({3.0, 4.0, 6.0, 10.0, *placed["x"]})
    axes.set_xlim(0.7 * shown[0], 2.2 * shown[-1])
    ticks = [tick for tick in (0.01, 0.1, 1, 2, 3, 4, 6, 10, 20, 100) if 0.7 * shown[0] <= tick <= 2.2 * shown[-1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("GPU-hours of pretraining, one fold")
    axes.set_ylabel("weighted F1 of autism (%)")
    plain(axes)
    legend(figure, [axes])
    title = f"{described.title} ({described.confidence})"
    prose = f"{described.prose.strip()} A dotted line is a published value whose hours are not known. {BARS}"
    return paper_figure_of("figure-3", title, prose, numbers, figure)


def _name_points(axes: Axes, points: pd.DataFrame) -> None:
    """Names beside the points of Figure 3; a value whose hours are not known is a line over all of them."""
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85}
    for row in points[points["x"].notna()].itertuples():
        axes.annotate(
            row.label,
            (row.x, row.value),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=INK,
            bbox=behind,
        )
    for place, row in enumerate(points[points["x"].isna()].itertuples()):
        axes.axhline(row.value, color=STYLES[row.source][0], linewidth=0.9, linestyle=(0, (2, 3)), zorder=0)
        axes.annotate(
            f"{row.label}, hours not known",
            (0.99, row.value),
            (0, -2 if place % 2 else 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="top" if place % 2 else "bottom",
            fontsize=7,
            color=MUTED,
        )


def _depths(answers: StudyAnswers, described: DepthFigure, x_of: Mapping[int, int]) -> pd.DataFrame:
    """Weighted F1 of every data set and depth: published where the authors logged it, ours under both protocols."""
    logged = read_logs().data
    points = []
    for name, panel in described.panels.items():
        for depth, model in described.models.items():
            row = logged[name].get(f"decoder{depth}")
            if row is not None:
                value, spread = row["f1_weighted"]
                entry = Entry(value, np.nan if spread is None else spread)
                points.append(point(panel.label, f"{depth} layers", x_of[depth], PUBLISHED, entry))
            for source in (OPTIMISTIC, HONEST):
                own = _of_source(answers, source, model, panel.tasks)
                points.append(point(panel.label, f"{depth} layers", x_of[depth], source, own))
    return numbers_of(points)


def _shown(numbers: pd.DataFrame) -> list[str]:
    """Sources that have a point in any panel, in the order of the legend."""
    return [source for source in SOURCES if numbers.loc[numbers["source"] == source, "value"].notna().any()]


def figure_6(answers: StudyAnswers) -> PaperFigure:
    """Weighted F1 against parameters, a panel a data set, with a straight line through the depths and its Pearson r."""
    described = read_published("lcm_figure_6", DepthFigure)
    numbers = _depths(answers, described, read_parameters().lcm)
    shown = _shown(numbers)
    figure = blank(8.4, 4.6)
    panels = figure.subplots(2, 4, sharex=True).ravel()
    for axes, panel in zip(panels, described.panels.values(), strict=False):
        own = numbers[numbers["panel"] == panel.label].assign(x=lambda frame: frame["x"] / 1e9)
        scatter(axes, own.assign(spread=np.nan, low=np.nan, high=np.nan), answers)
        told = []
        for source in shown:
            drawn = own[(own["source"] == source) & own["value"].notna()]
            told.append("none")
            if len(drawn) > 2 and drawn["value"].std() > 0:
                slope, start = np.polyfit(drawn["x"], drawn["value"], 1)
                ends = np.array([drawn["x"].min(), drawn["x"].max()])
                axes.plot(ends, start + slope * ends, color=STYLES[source][0], linewidth=1.1)
                told[-1] = f"{np.corrcoef(drawn['x'], drawn['value'])[0, 1]:.2f}".replace("-", "−")
        axes.set_title(f"{panel.label}\nr = {' / '.join(told)}", fontsize=8.5, color=INK, loc="left")
        axes.tick_params(labelbottom=True)
        plain(axes)
    for axes in panels[len(described.panels) :]:
        axes.set_visible(False)
    figure.supxlabel("parameters (billions)", fontsize=9, color=INK)
    figure.supylabel("weighted F1 (%)", fontsize=9, color=INK)
    legend(figure, panels)
    prose = (
        f"{described.prose.strip()} Values of r in the order of the legend; none: fewer than three depths, or no difference "
        "between them. Deviations are in the CSV."
    )
    return paper_figure_of("figure-6", f"{described.title} ({described.confidence})", prose, numbers, figure)


def scaling(answers: StudyAnswers) -> PaperFigure:
    """Weighted F1 against layers at fixed depth, a line a data set, a panel a source."""
    described = read_published("lcm_figure_6", DepthFigure)
    depths = list(described.models)
    numbers = _depths(answers, described, {depth: depth for depth in depths})
    shown = _shown(numbers)
    figure = blank(2.2 + 2.6 * len(shown), 3.4)
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    for axes, source in zip(panels, shown, strict=True):
        for number, panel in enumerate(described.panels.values()):
            drawn = numbers[
                (numbers["source"] == source) & (numbers["panel"] == panel.label) & numbers["value"].notna()
            ]
            colour, dash = style_of(number)
            axes.plot(
                drawn["x"],
                drawn["value"],
                color=colour,
                linestyle=dash,
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                label=panel.label,
            )
        axes.set_title(known(source, answers), fontsize=8.5, color=INK, loc="left")
        axes.set_xticks(depths)
        axes.set_xlabel("layers")
        plain(axes)
    panels[0].set_ylabel("weighted F1 (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    prose = (
        "LCM trained from scratch at fixed depth, a line a data set; unlike Table 3, no row mixes depths. Published: one seed "
        "of the authors' log, at the epoch that did best on the tested people. A depth without a marker was not run."
    )
    return paper_figure_of("scaling", "Score against depth, fixed", prose, numbers, figure)


def figure_7(answers: StudyAnswers) -> PaperFigure:
    """Layer whose score of the true class a person is read from: a box and a point a person for each class, and protocol."""
    described = read_published("lcm_figure_7", LayerFigure)
    kinds = [kind for kind in (OPTIMISTIC, HONEST) if answers.protocols[kind]]
    layers = {
        (kind, one.label): _layers(answers, kind, described.model, one.task, one.level)
        for kind in kinds
        for one in described.classes
    }
    numbers = numbers_of(
        point(kind, label, np.nan, kind, _quartiles(found)) for (kind, label), found in layers.items() if len(found)
    )
    shown = [kind for kind in kinds if any(len(found) for (own, _), found in layers.items() if own == kind)]
    figure = blank(7.2, 0.9 + 2.2 * max(len(shown), 1))
    panels = figure.subplots(max(len(shown), 1), 1, sharex=True, squeeze=False)[:, 0]
    labels = [one.label for one in described.classes]
    for axes, kind in zip(panels, shown, strict=False):
        _boxes(axes, [layers[kind, label] for label in labels], shows_people=not answers.min_cell)
        axes.set_title(known(kind, answers), fontsize=8.5, color=INK, loc="left")
    deepest = max([described.num_layers, *(int(layer) for found in layers.values() for layer in found)])
    for axes in panels:
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(0.3, deepest + 0.7)
        plain(axes)
    panels[-1].set_xlabel("layer")
    if not shown:
        panels[0].text(0.5, 0.5, "not run: no row with layers", transform=panels[0].transAxes, ha="center", color=MUTED)
    words = "; ".join(f"{one.label}: {one.published}" for one in described.classes)
    boxes = "Box: quartiles; line: median; whiskers: 5 to 95 %."
    caption = f"{described.title} ({described.confidence}). {described.prose.strip()} {boxes}"
    medians = "; ".join(
        f"{label}, {kind}: median layer {np.median(found):.0f} of {len(found)} people"
        for (kind, label), found in layers.items()
        if len(found)
    )
    alt = f"{described.title}. Published, in words: {words}. Ours: {medians or 'not run: no row with layers'}."
    return PaperFigure("figure-7", described.title, caption, alt, finished(figure), numbers)


def _layers(answers: StudyAnswers, kind: str, model: str, task: str, level: str) -> np.ndarray:
    """Layer, from 1, of the true level's score of every person with that level; empty where nothing has run."""
    protocol = answers.protocols[kind]
    if protocol is None or answers.missing(kind, model, task) is not None:
        return np.array([], dtype=int)
    predictions = answers.predictions(protocol, model, task)
    own = predictions[(predictions["truth"] == level) & predictions["layers"].notna()]
    layer_N = np.array([row.layers[list(row.levels).index(level)] for row in own.itertuples()], dtype=int)
    return layer_N if len(layer_N) >= answers.min_cell else layer_N[:0]


def _quartiles(layer_N: np.ndarray) -> Entry:
    low, middle, high = np.quantile(layer_N, [0.25, 0.5, 0.75], method="linear")
    return Entry(float(middle), low=float(low), high=float(high), num_people=len(layer_N))


def _boxes(axes: Axes, found: Sequence[np.ndarray], *, shows_people: bool) -> None:
    """Quartiles as a box and, but on a public page, every person as a point; classes down."""
    jitter = np.random.default_rng(0)
    for place, layer_N in enumerate(found):
        if not len(layer_N):
            axes.text(0.5, place, "not run or too few", fontsize=8, color=MUTED, va="center")
            continue
        axes.boxplot(
            layer_N,
            positions=[place],
            orientation="horizontal",
            widths=0.55,
            showfliers=False,
            manage_ticks=False,
            boxprops={"color": MUTED},
            whis=(5, 95),
            whiskerprops={"color": MUTED},
            capprops={"color": MUTED},
            medianprops={"color": ORANGE, "linewidth": 1.8},
        )
        if shows_people:
            height_N = place + jitter.uniform(-0.18, 0.18, len(layer_N))
            axes.scatter(layer_N, height_N, s=6, color=BLUE, alpha=0.5, linewidth=0)


FIGURES: dict[str, Callable[[StudyAnswers], PaperFigure]] = {
    "figure-2": figure_2,
    "figure-3": figure_3,
    "figure-6": figure_6,
    "figure-7": figure_7,
    "scaling": scaling,
}
"""Name → figure."""
