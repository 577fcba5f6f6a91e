"""The commands but `train`: each declares its options and calls one function of the library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser


def add_demo_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the options of `rlt demo`."""
    parser.add_argument(
        "--output", default="demo", help="Folder for everything; what an earlier demo wrote there is replaced."
    )
    parser.add_argument("--json", type=str | None, default=None, help="Write the report to this file too.")


def run_demo(args: Any, arguments: Sequence[str]) -> None:
    """Run the demo."""
    from rl_transformer.reproductions.demo import run_demo as run
    from rl_transformer.runtime.files import check_writable, to_json, write_text

    check_writable(args.json)
    report = run(Path(args.output))
    if args.json:
        write_text(Path(args.json), to_json(report))


def add_reproduce_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the options of `rlt reproduce`."""
    from rl_transformer.reproductions import EXPERIMENTS

    parser.add_argument("name", help=f"{', '.join(EXPERIMENTS)}.")
    parser.add_argument("--quick", action="store_true", help="The same code at a smaller size, in minutes.")
    parser.add_argument(
        "--seeds", type=int | None, default=None, help="Seeds; the experiment's own number if not given."
    )
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="Folder of the results; reproductions/results/NAME (quick: reproductions/quick/NAME) if not given. "
        "Data and policies are kept in .runs beside it and shared.",
    )
    parser.add_argument("--data", type=str | None, default=None, help="URI of control data; made here if not given.")
    parser.add_argument("--env-id", type=str | None, default=None, help="Environment of --data.")
    parser.add_argument("--text", type=str | None, default=None, help="wikipedia: text file to learn language from.")
    parser.add_argument(
        "--jobs", type=int | None, default=None, help="Policies trained at a time; one a core if not given."
    )
    _add_json(parser)


def run_reproduce(args: Any, arguments: Sequence[str]) -> None:
    """Run an experiment of the papers."""
    import os
    import shlex

    from rl_transformer.errors import RLTransformerError
    from rl_transformer.reproductions import find_experiment
    from rl_transformer.reproductions.reproduction import Setup, reproduce
    from rl_transformer.runtime.files import check_writable, to_json, write_text

    check_writable(args.json)
    experiment = find_experiment(args.name)
    seeds = args.seeds if args.seeds is not None else experiment.quick_seeds if args.quick else experiment.seeds
    jobs = args.jobs if args.jobs is not None else len(os.sched_getaffinity(0))
    for option, value in {"--seeds": seeds, "--jobs": jobs}.items():
        if value < 1:
            raise RLTransformerError(f"{value} is not positive", where=option, fix="give 1 or more")
    if bool(args.data) != bool(args.env_id):
        raise RLTransformerError("one of the two is missing", where="--data and --env-id", fix="give both, or neither")
    if args.data and not experiment.takes_data:
        raise RLTransformerError(f"{args.name} makes its own data", where="--data", fix="leave --data and --env-id out")
    if args.text and not experiment.takes_text:
        raise RLTransformerError(f"{args.name} reads no text", where="--text", fix="leave it out")
    output = Path(args.output or f"reproductions/{'quick' if args.quick else 'results'}/{args.name}")
    setup = Setup(quick=args.quick, seeds=seeds, output=output, data=args.data, env_id=args.env_id, text=args.text)
    # What changes the figures, and nothing of where they go.
    typed = ["rlt", "reproduce", args.name, *(["--quick"] if args.quick else []), "--seeds", str(seeds)]
    typed += ["--data", args.data, "--env-id", args.env_id] if args.data else []
    typed += ["--text", args.text] if args.text else []
    result = reproduce(experiment, setup, jobs=jobs, command=shlex.join(typed))
    if args.json:
        write_text(Path(args.json), to_json(result))


def add_bench_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the options of `rlt bench`."""
    from rl_transformer.bench import OPTIONS

    def told(option: str) -> str:
        return ", ".join(f"{name}: {known[option]}" for name, known in OPTIONS.items() if option in known)

    parser.add_argument("name", help=f"{', '.join(OPTIONS)}.")
    for flag, kind, text in (
        ("--repeats", int, "Rounds in which the sides take turns"),
        ("--store-steps", int, "Steps of the store on disk"),
        ("--num-episodes", int, "Episodes a target, ours"),
        ("--baseline-episodes", int, "Episodes a target, baseline"),
        ("--policy", str, "Folder of a policy trained with the preset gym"),
        ("--streaming", str, "Folder of a policy with streaming attention, to time as well"),
        ("--env-id", str, "Its environment"),
    ):
        option = flag[2:].replace("-", "_")
        parser.add_argument(flag, type=kind | None, default=None, help=f"{text}. If not given: {told(option)}.")
    parser.add_argument("--target-return", nargs="+", type=float, default=None, help="evaluate: returns to ask for.")
    parser.add_argument("--sizes", nargs="+", type=str, default=None, help="train: hopper, gpt2-small, atari.")
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads; torch's default if not given.")
    parser.add_argument("--json", type=str | None, default=None, help="Write the rows to this file.")


def run_bench(args: Any, arguments: Sequence[str]) -> None:
    """Time ours against the published loop."""
    from rl_transformer.bench import bench
    from rl_transformer.runtime.files import check_writable, to_json, write_text
    from rl_transformer.runtime.machine import cpu_threads

    check_writable(args.json)
    options = {name: value for name, value in vars(args).items() if name not in ("name", "json", "threads")}
    with cpu_threads(args.threads):
        rows = bench(args.name, **options)
    for row in rows:
        about = ", ".join(str(row[key]) for key in ("what", "size", "dtype", "baseline_dtype") if key in row)
        ours, baseline = row["ours"]["median_ms"], row["baseline"]["median_ms"]
        print(f"{args.name}: {about}: ours {ours:g} ms, baseline {baseline:g} ms, ratio {row['ratio']:g}")
    if args.json:
        write_text(Path(args.json), to_json(rows[0] if len(rows) == 1 else rows))


def add_inspect_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the options of `rlt inspect`."""
    parser.add_argument("uri", help="minari:NAMESPACE/NAME-v0, d4rl:FILE.hdf5 or rlt:FOLDER.")
    parser.add_argument("--json", default=None, type=str | None, help="Write everything as JSON to this file.")
    parser.add_argument(
        "--figure", default=None, type=str | None, help="Draw the distributions of returns and lengths into this PNG."
    )
    parser.add_argument("--verify", action="store_true", help="Read every byte of a store and compare its hashes.")


def run_inspect(args: Any, arguments: Sequence[str]) -> int:
    """Describe a data set; 2 if training would refuse it."""
    from rl_transformer.runtime.files import check_writable, to_json, write_text
    from rl_transformer.trajectories.inspection import as_text, describe
    from rl_transformer.trajectories.open import read_trajectories

    check_writable(args.json)
    check_writable(args.figure, ".png")
    dataset = read_trajectories(args.uri, verify=args.verify)
    description = describe(dataset)
    print(as_text(description))
    if args.json:
        write_text(Path(args.json), to_json(description))
    if args.figure:
        from rl_transformer.evaluation.plots import plot_data

        plot_data(dataset.episode_returns.tolist(), dataset.lengths.tolist(), Path(args.figure))
    return 2 if description["refused"] else 0


def add_evaluate_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the options of `rlt evaluate`."""
    parser.add_argument("folder", help="A run folder or a policy folder.")
    parser.add_argument("--env-id", required=True, help="Gymnasium id of the environment.")
    parser.add_argument(
        "--target-return",
        nargs="+",
        type=float,
        default=[],
        help="Returns to ask for; the policy's own suggestions if none.",
    )
    parser.add_argument("--num-episodes", type=int, default=20, help="Episodes a target.")
    parser.add_argument(
        "--seed", type=int, default=1_000_000, help="Seed of each target's first episode; later ones count up."
    )
    parser.add_argument(
        "--reference",
        type=str | None,
        default=None,
        help="hopper, halfcheetah or walker2d: add D4RL's normalized score.",
    )
    parser.add_argument(
        "--json", type=str | None, default=None, help="Write every episode and the statistics to this file."
    )
    parser.add_argument(
        "--figure",
        type=str | None,
        default=None,
        help="Draw asked against achieved return into this PNG; needs --data.",
    )
    parser.add_argument(
        "--data", type=str | None, default=None, help="URI of the training data, drawn behind --figure."
    )
    parser.add_argument("--video", type=str | None, default=None, help="Record the first episode as .gif or .mp4.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N.")


def run_evaluate(args: Any, arguments: Sequence[str]) -> None:
    """Score a policy."""
    from rl_transformer.errors import RLTransformerError
    from rl_transformer.evaluation.evaluate import evaluate
    from rl_transformer.evaluation.plots import plot_target_vs_achieved
    from rl_transformer.evaluation.episodes import check_video, save_video
    from rl_transformer.runtime.files import check_writable, to_json, write_text
    from rl_transformer.runtime.machine import find_device
    from rl_transformer.policy import load_policy
    from rl_transformer.trajectories import open_trajectories

    if bool(args.figure) != bool(args.data):
        raise RLTransformerError(
            "one of the two is missing",
            where="--figure and --data",
            fix="give both: the figure shows the data behind the policy",
        )
    check_writable(args.json)
    check_writable(args.figure, ".png")
    check_writable(args.video)
    if args.video:
        check_video(args.video)
    data = open_trajectories(args.data) if args.data else None
    policy = load_policy(args.folder).to(find_device(args.device))
    if told := policy.warning_about(args.target_return):
        print(told)
    report = evaluate(
        policy,
        env_id=args.env_id,
        target_returns=args.target_return,
        num_episodes=args.num_episodes,
        seed=args.seed,
        reference=args.reference,
        record=1 if args.video else 0,
    )
    print(report)
    if args.json:
        write_text(Path(args.json), to_json(report.to_dict()))
    if args.figure and data is not None:
        plot_target_vs_achieved({"policy": report}, data.episode_returns.tolist(), Path(args.figure))
    if args.video:
        save_video(report.recordings[0], args.video)


def add_collect_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the options of `rlt collect`."""
    parser.add_argument("env_id", help="Gymnasium id of the environment.")
    parser.add_argument("--output", required=True, help="Folder of the store; must be empty or new.")
    parser.add_argument("--num-episodes", type=int, required=True, help="Episodes to record.")
    _add_json(parser)
    parser.add_argument(
        "--policy", type=str | None, default=None, help="Folder of a policy that acts; random actions if not given."
    )
    parser.add_argument("--target-return", type=float | None, default=None, help="Return the policy is asked for.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the first episode; later ones count up.")


def run_collect(args: Any, arguments: Sequence[str]) -> None:
    """Record episodes."""
    from rl_transformer.errors import RLTransformerError
    from rl_transformer.environments.making import make_environment
    from rl_transformer.evaluation.collection import record_episodes
    from rl_transformer.runtime.files import check_writable
    from rl_transformer.policy import load_policy
    from rl_transformer.trajectories.store import write_store

    if args.num_episodes < 1 or args.seed < 0:
        found = f"{args.num_episodes} episodes from seed {args.seed}"
        raise RLTransformerError(
            found, where="--num-episodes, --seed", fix="ask for 1 episode or more, from seed 0 or more"
        )
    if args.target_return is not None and not args.policy:
        raise RLTransformerError(
            "random actions are not asked for a return",
            where="--target-return",
            fix="pass --policy too, or leave it out",
        )
    check_writable(args.json)
    environment = make_environment(args.env_id)
    policy = load_policy(args.policy) if args.policy else None
    spec, trajectories = record_episodes(
        environment, args.env_id, args.num_episodes, seed=args.seed, policy=policy, target=args.target_return
    )
    _report(write_store(Path(args.output), spec, trajectories), args.json)


def add_convert_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the options of `rlt convert`."""
    parser.add_argument("uri", help="minari:NAMESPACE/NAME-v0, d4rl:FILE.hdf5 or rlt:FOLDER.")
    parser.add_argument("--output", required=True, help="Folder of the store; must be empty or new.")
    parser.add_argument(
        "--keep-unfinished", action="store_true", help="Keep a D4RL file's last episode that has no end."
    )
    _add_json(parser)


def _add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", type=str | None, default=None, help="Write what rlt inspect would say to this file.")


def _report(dataset: Any, path: str | None) -> None:
    from rl_transformer.runtime.files import to_json, write_text
    from rl_transformer.trajectories.inspection import describe

    print(f"wrote {dataset}")
    if path:
        write_text(Path(path), to_json(describe(dataset)))


def run_convert(args: Any, arguments: Sequence[str]) -> None:
    """Write a store, holding one episode in memory at a time."""
    from rl_transformer.runtime.files import check_writable
    from rl_transformer.trajectories.open import open_source
    from rl_transformer.trajectories.store import write_store

    check_writable(args.json)
    spec, trajectories, notes = open_source(args.uri, keep_unfinished=args.keep_unfinished)
    _report(write_store(Path(args.output), spec, trajectories, notes=notes), args.json)


def add_attention_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the options of `rlt attention`."""
    parser.add_argument("folder", help="A run folder or a policy folder.")
    parser.add_argument(
        "--data", type=str | None, default=None, help="URI of logged data; the run's own training data if not given."
    )
    parser.add_argument("--num-windows", type=int, default=256, help="Windows to average over.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of which windows.")
    parser.add_argument("--figure", type=str | None, default=None, help="Draw the maps, a layer each, into this PNG.")
    parser.add_argument("--json", type=str | None, default=None, help="Write maps and figures to this file.")


def run_attention(args: Any, arguments: Sequence[str]) -> None:
    """Look at what a policy's tokens attend to."""
    from rl_transformer.errors import RLTransformerError
    from rl_transformer.evaluation.attention import attention_maps, plot_attention
    from rl_transformer.runtime.files import check_writable, read_json, to_json, write_text
    from rl_transformer.policy import load_policy
    from rl_transformer.trajectories import open_trajectories

    check_writable(args.json)
    check_writable(args.figure, ".png")
    policy, uri, written = load_policy(args.folder), args.data, Path(args.folder) / "config.json"
    if uri is None and written.exists():
        uri = read_json(written, fix="pass --data URI").get("dataset", {}).get("uri")
    if not uri:
        raise RLTransformerError(
            "a policy folder does not say where its data is", where="--data", fix="pass --data URI"
        )
    report = attention_maps(policy, open_trajectories(uri), num_windows=args.num_windows, seed=args.seed)
    for layer in report["layers"]:
        print(
            f"layer {layer['layer']}: {layer['same_type']:.3f} of the attention on tokens of the same type (spread evenly: "
            f"{report['even']['same_type']:.3f}), {layer['distance']:.2f} timesteps back (evenly: {report['even']['distance']:.2f})"
        )
    if args.figure:
        plot_attention(report, Path(args.figure))
    if args.json:
        write_text(Path(args.json), to_json(report))
