"""Figure 2: the crop size of every epoch under each schedule; it needs no run."""

from matplotlib.figure import Figure

from analysis.figures import COLORS, new_figure
from analysis.section import Section
from analysis.table4_crop_schedules import BASELINE, PAPER_SPEED_UP
from analysis.tables import Table
from experiments.table4_crop_schedules import STUDIED, STUDY
from selftrain.benchmarks import benchmark
from selftrain.schedules import crop_sizes, expected_speedup
from selftrain.study import arm_config

NAME = "figure2_schedules"
SCHEDULES = [name for name, _, _ in STUDIED]


def sizes_of(name: str, arm: str) -> list[int]:
    """Return the crop size of each epoch of an arm of Table 4, in pixels.

    Args:
        name: Of the benchmark; its own epochs and crops, not those of a small study, are drawn.
        arm: Of the study.
    """
    config = arm_config(benchmark(name), STUDY, STUDY.arms[arm], 0).student
    own = benchmark(name).student
    return crop_sizes(
        config.crop.schedule,
        epochs=own.epochs,
        crop_size=own.crop.size,
        warm_up=config.crop.warm_up,
        cycles=config.crop.cycles,
    )


def draw_schedules(name: str) -> Section:
    """Return the schedules of a benchmark's student, without and with warm-up."""
    full = max(sizes_of(name, BASELINE))

    def speed_up(arm: str) -> str:
        return f"{expected_speedup(sizes_of(name, arm), full):.2f}"

    rows = [
        [
            schedule,
            speed_up(schedule),
            speed_up(f"{schedule}, warm-up"),
            f"{PAPER_SPEED_UP[schedule]:.1f}",
            f"{PAPER_SPEED_UP[f'{schedule}, warm-up']:.1f}",
        ]
        for schedule in SCHEDULES
    ]
    epochs = len(sizes_of(name, BASELINE))
    table = Table(
        columns=["schedule", "by area", "by area, warm-up", "paper", "paper, warm-up"],
        rows=rows,
        notes=[
            f"Speed-up against crops of {full} px in all of {epochs} epochs: by area, what the "
            "sizes of the crops allow; the paper's is measured. The paper does not print sizes and "
            "breakpoints: these are ours (docs/method.md)."
        ],
    )
    return Section(
        name=NAME,
        title=f"Figure 2. Crop-size schedules of {name}",
        table=table,
        figures={NAME: _draw(name, full)},
    )


def _draw(name: str, full: int) -> Figure:
    figure = new_figure(9.0, 4.6)
    panels = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    for axes, schedule in zip(panels, SCHEDULES, strict=True):
        for arm, color, line in (
            (f"{schedule}, warm-up", COLORS[1], "-"),
            (schedule, COLORS[0], "--"),
        ):
            sizes = sizes_of(name, arm)
            label = "with warm-up" if arm != schedule else "without"
            axes.stairs(
                sizes,
                range(len(sizes) + 1),
                color=color,
                linestyle=line,
                label=label,
                baseline=None,
                linewidth=1.6,
            )
        axes.set_title(schedule, fontsize=10)
        axes.set_ylim(0, 1.1 * full)
        axes.set_yticks(sorted(set(sizes_of(name, schedule))))
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    for axes in panels[2:]:
        axes.set_xlabel("epoch")
    for axes in panels[::2]:
        axes.set_ylabel("crop size in px")
    panels[0].legend(frameon=False, fontsize=9, loc="lower right")
    return figure
