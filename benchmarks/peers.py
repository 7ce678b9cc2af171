"""Ways to a stated share of the multiply-accumulates, side by side: test accuracy over paired random states.

    python benchmarks/peers.py --root DATA --network resnet8 --images 20000 --epochs 8 --share 0.25 \\
        --states 0 1 2 [--methods ...] [--equal epochs macs] [--processes 2] [--json peers.json] [--resume] [--tune] \\
        [--accelerator cpu] [--batch 128] [--lr 0.1] [--warmup 0] [--exponent 1]

DATA holds the files of CIFAR-10 or Fashion-MNIST. The methods:

    dense       no pruning
    thin        all widths scaled by one factor, the largest that fits, from scratch
    ours        GroupLasso("coupled"), Budget(macs=share) and Shrink; the slim network is what is measured
    ours-shape  the widths that ours found with the same state, from scratch with new weights
    magnitude   torch-pruning's MagnitudePruner after half of the epochs of dense training, then fine-tuning
    groupnorm   torch-pruning's GroupNormPruner: sparse learning in the first half, then the same; --reg
    halfspace   half-space projected training after OTO, chosen groups shrink to zero over periods; then slim

All train with SGD (Nesterov momentum 0.9, one cosine from --lr to zero over the run, also across a prune). With the same
state they see the same batches, and those that begin dense have the same first weights. Shares are
those of the physical network at the end; no method removes a channel that would take it more than 1.5 % of the dense
network below its share while others can go (for torch-pruning that is added here).

The second table (`--equal macs`) lets each method train for as many whole epochs as take no more multiply-accumulates
than the dense network in --epochs. A step counts 3 · forward MACs · batch of the network as it physically is in that
step. Hence halfspace, which trains a dense network with zeros in it, gains nothing and has the same runs in both
tables; ours is cut by Shrink before each epoch. There it comes to its size early, between --early of its run; if that
ends within the first tenth, Shrink cuts every ten steps and the score is LayerwiseRank() with exponent 0, so that layers keep
their proportions. The two pruners cut when ours has come to its size, after an epoch at least; thin and ours-shape
train 1 / share times as long. Not counted: the run in which ours found the widths of ours-shape, penalties, scores,
and tuning. Training MACs in the tables are in units of the dense network in --epochs; seconds are those of training
and cutting.

`--tune` runs every method of the first share with the first state over --grid (groupnorm over --reg-grid too), takes the
best on the validation images (5,000 of the training set that nobody trains on) and prints the options to go on with; the
test images are not read. ours-shape tunes with the widths of ours at the given weight decay. `--resume` skips the runs that the JSON file holds, which is written after each run.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from _peers_methods import METHODS, Job
from _peers_options import count, spread, within
from _peers_options import parser as base
from _peers_plan import Row, Rows, Settings, run_all

from ssl_prune.utils.table import table


def by_method(items: Sequence[str]) -> dict[str, float]:
    """A number for each method from `0.001 thin=0.0005`: one for all, and those that differ."""
    found: dict[str, float] = {}
    for item in sorted(items, key=lambda item: "=" in item):
        name, _, value = item.rpartition("=")
        if name and name not in METHODS:
            raise SystemExit(f"{item}: no such method; there are {', '.join(METHODS)}")
        try:
            decay = within(0)(value)
        except (ValueError, argparse.ArgumentTypeError):
            raise SystemExit(f"{item}: a weight decay is a number of at least 0, such as 0.0005") from None
        found |= dict.fromkeys([name] if name else METHODS, decay)
    missing = [method for method in METHODS if method not in found]
    if missing:
        raise SystemExit(f"no weight decay for {', '.join(missing)}: give one for all, such as 0.0005, first")
    return found


def line(jobs: Sequence[Job], ours: Sequence[Job], rows: Rows, epochs: int) -> list[object] | None:
    """A method's row of a table: means over the states, and the differences to ours with the same states."""
    found = [rows.by_job[job] for job in jobs if job in rows.by_job]
    if not found:
        return None
    pairs = [(rows.by_job[a], rows.by_job[b]) for a, b in zip(jobs, ours, strict=True) if {a, b} <= rows.by_job.keys()]
    differences = [a["accuracy"] - b["accuracy"] for a, b in pairs]
    job = jobs[0]

    def average(key: str) -> float:
        return float(mean(row[key] for row in found))

    return [
        job.method + (f", reg {job.reg:g}" if job.reg else ""),
        f"{job.weight_decay:g}",
        f"{100 * average('macs_left'):.1f} %",
        round(average("params")),
        spread([row["accuracy"] for row in found]),
        spread(differences, "+") if differences and job.method != "ours" else None,
        len(found),
        job.epochs,
        f"{mean(row['train_macs'] / (epochs * row['train_dense_macs']) for row in found):.2f}",
        round(average("seconds")),
    ]


def summary(settings: Settings, options: argparse.Namespace, rows: Rows, equal: str, share: float) -> str:
    """One table."""
    lines = []
    for method in options.methods:
        jobs = [settings.job(method, share, state, equal) for state in options.states]
        ours = [settings.job("ours", share, state, equal) for state in options.states]
        lines.append(line(jobs, ours, rows, settings.epochs))
    head = [
        "method", "weight decay", "MACs left", "parameters", "accuracy, %", "minus ours", "states", "epochs",
        "training MACs", "seconds",
    ]  # fmt: skip
    what = "equal epochs" if equal == "epochs" else "equal training MACs"
    title = f"\n{settings.network}, {settings.data}, {share:.0%} of the multiply-accumulates, {what}; {settings.split} images"
    return table(head, [found for found in lines if found], title=title)


def tune(settings: Settings, options: argparse.Namespace) -> list[list[Job]]:
    """For each method the runs of its grid."""
    share, state = options.share[0], options.states[0]
    grids = []
    for method in options.methods:
        job = settings.job(method, share, state)
        regs = options.reg_grid if method == "groupnorm" else [0.0]
        grids.append([replace(job, weight_decay=decay, reg=reg) for decay in options.grid for reg in regs])
    return grids


def best(grids: list[list[Job]], rows: Rows, epochs: int) -> str:
    """The grids as a table, and the options of the best runs."""
    lines, decays, reg = [], [], ""
    for grid in grids:
        known = [job for job in grid if job in rows.by_job]
        if not known:
            continue
        top = max(known, key=lambda job: rows.by_job[job]["accuracy"])
        for job in known:
            cells = line([job], [job], rows, epochs)
            assert cells is not None
            lines.append([*cells[:2], *cells[2:5], "best" if job is top else None])
        decays.append(f"{top.method}={top.weight_decay:g}")
        reg = f" --reg {top.reg:g}" if top.method == "groupnorm" else reg
    head = ["method", "weight decay", "MACs left", "parameters", "validation accuracy, %", None]
    return table([name or "" for name in head], lines) + f"\n\n--weight-decay 0.0005 {' '.join(decays)}{reg}"


def progress(row: Row | str) -> str:
    if isinstance(row, str):
        return row
    reg = f", reg {row['reg']:g}" if row["reg"] else ""
    return (
        f"{row['method']}{reg}, share {row['share']:g}, state {row['state']}, weight decay {row['weight_decay']:g}, "
        f"{row['epochs']} epochs: {row['accuracy']:.2f} % at {row['macs_left']:.2%} of the MACs, {row['seconds']:.0f} s"
    )


def arguments() -> argparse.Namespace:
    parser = base(__doc__, "resnet8", 8)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--share", nargs="+", type=within(0, 1), default=[0.25], help="of the multiply-accumulates")
    parser.add_argument("--states", nargs="+", type=int, default=[0, 1, 2], help="random states")
    parser.add_argument("--weight-decay", nargs="+", default=["0.0005"], help="for all, or METHOD=NUMBER, or both")
    parser.add_argument("--reg", type=within(0), default=1e-4, help="strength of groupnorm's sparse learning")
    parser.add_argument("--precision", default="bf16-mixed", help="of training; tests are in float32")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--batch", type=count, default=128, help="images a step")
    parser.add_argument("--lr", type=within(0), default=0.1, help="of SGD at the start")
    parser.add_argument("--warmup", type=within(0, 1), default=0.0, help="share of the run in which lr rises to that")
    parser.add_argument("--equal", nargs="+", choices=["epochs", "macs"], default=["epochs", "macs"])
    parser.add_argument("--window", nargs=2, type=within(0, 1), default=[0.1, 0.65], help="of ours, shares of the run")
    parser.add_argument("--exponent", type=within(0), default=1.0, help="of ours: 0.5 takes less of what costs much")
    parser.add_argument(
        "--early", nargs=2, type=within(0, 1), default=[0.0005, 0.006], help="the same at equal training MACs"
    )
    parser.add_argument("--tune", action="store_true", help="choose weight decays on the validation images")
    parser.add_argument("--grid", nargs="+", type=within(0), default=[1e-4, 5e-4, 1e-3], help="weight decays to try")
    parser.add_argument("--reg-grid", nargs="+", type=within(0), default=[1e-5, 1e-4, 5e-4], help="and groupnorm's reg")
    parser.add_argument("--processes", type=count, default=1, help="runs side by side")
    parser.add_argument("--threads", type=count, default=1, help="of each run")
    parser.add_argument("--json", type=Path, default=Path("peers.json"))
    parser.add_argument("--resume", action="store_true", help="skip the runs that the file holds")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    settings = Settings(
        options.network, options.data, options.images, options.epochs, by_method(options.weight_decay), options.reg,
        options.precision, "validation" if options.tune else "test",
        {"epochs": tuple(options.window), "macs": tuple(options.early)}, options.accelerator, options.batch, options.lr,
        options.warmup, options.exponent,
    )  # fmt: skip
    if options.json.exists() and not options.resume:
        raise SystemExit(f"{options.json} exists: --resume goes on with it, --json names another file")
    rows = Rows(options.json)
    tables = [(equal, share) for equal in options.equal for share in options.share]
    grids = tune(settings, options) if options.tune else []
    jobs = [job for grid in grids for job in grid] or [
        settings.job(method, share, state, equal)
        for equal, share in tables
        for state in options.states
        for method in options.methods
    ]
    failed = 0
    for row in run_all(jobs, rows, options.root, options.processes, options.threads):
        failed += isinstance(row, str)
        print(progress(row), flush=True)
    if options.tune:
        print("\n" + best(grids, rows, options.epochs))
    else:
        print("\n".join(summary(settings, options, rows, equal, share) for equal, share in tables))
    if failed:
        raise SystemExit(f"{failed} runs failed or were left out")


if __name__ == "__main__":
    main()
