"""From the results of all rounds to tables."""

from statistics import median

OURS = "elistimator"
BEGIN, END = "<!-- results begin -->", "<!-- results end -->"


def values(rounds, program, key):
    """One value for every round in which the program ran."""
    found = (result["programs"].get(program) for result in rounds)
    return [value(result, key) for result in found if result]


def value(result, key):
    found = result[key]
    return found["median"] if isinstance(found, dict) else found


def ratios(rounds, program, key):
    """Ours divided by the program's, in every round in which both ran."""
    pairs = [(result["programs"].get(OURS), result["programs"].get(program)) for result in rounds]
    return [value(ours, key) / value(theirs, key) for ours, theirs in pairs if ours and theirs]


def middle(numbers, form):
    return format(median(numbers), form) if numbers else "–"


def spread(numbers):
    if not numbers:
        return "–"
    if len(numbers) == 1:
        return f"{numbers[0]:.2f}"
    return f"{median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"


def counted(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}"


def workload_table(rounds, programs):
    lines = [
        "| program | version | train steps/s | ours / peer | eval steps/s | ours / peer | peak memory, MiB |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for program in programs:
        train, evaluation = "train_steps_per_second", "eval_steps_per_second"
        versions = [result["programs"][program]["version"] for result in rounds if program in result["programs"]]
        if not versions:
            continue
        ours = program == OURS
        cells = [
            f"**{program}**" if ours else program,
            versions[0],
            middle(values(rounds, program, train), ".1f"),
            "" if ours else spread(ratios(rounds, program, train)),
            middle(values(rounds, program, evaluation), ".1f"),
            "" if ours else spread(ratios(rounds, program, evaluation)),
            middle(values(rounds, program, "peak_rss_mb"), ".0f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def floor_table(workloads):
    lines = [
        "| workload | train GFLOP per step | ours, GFLOP/s | large product, GFLOP/s | share | eval share | memory, GB/s |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for workload, rounds in workloads.items():
        rows = [(result["floor"], result["programs"][OURS]) for result in rounds if OURS in result["programs"]]
        if not rows:
            continue

        def rate(ours, kind):
            return value(ours, f"{kind}_steps_per_second") * ours[f"{kind}_gflop"]

        def share(kind):
            return median(rate(ours, kind) / floor["matrix_product_gflop_per_second"] for floor, ours in rows)

        cells = [
            workload,
            f"{rows[0][1]['train_gflop']:.2f}",
            f"{median(rate(ours, 'train') for _, ours in rows):.0f}",
            f"{median(floor['matrix_product_gflop_per_second'] for floor, _ in rows):.0f}",
            f"{share('train'):.0%}",
            f"{share('eval'):.0%}",
            f"{median(floor['stream_gb_per_second'] for floor, _ in rows):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def quiet(workloads, threads):
    """How busy other processes kept the machine meanwhile."""
    runs = [run for rounds in workloads.values() for result in rounds for run in result["programs"].values()]
    others = [run["other_cores"] for run in runs if run.get("other_cores") is not None]
    if not others:
        return []
    verdict = "" if median(others) < 0.1 * threads else " **That is not a quiet machine: take the ratios only, if at all.**"
    cores = f"{median(others):.2f} cores in the median, {max(others):.2f} at most"
    return ["", f"While the programs ran, everything else on the machine used {cores}.{verdict}"]


def markdown(results):
    """The whole section."""
    machine, workloads = results["machine"], results["workloads"]
    commit = machine["commit"] + (" with changes" if machine["changed"] else "")
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {machine['system']}; {machine['rustc']}; "
        f"{counted(results['threads'], 'thread')}; {counted(results['rounds'], 'round')}; {machine['date']}; commit {commit}.",
    ]
    for workload, rounds in workloads.items():
        lines += ["", f"### {workload}", "", *workload_table(rounds, results["programs"])]
    lines += ["", "### Share of the floor", "", *floor_table(workloads), *quiet(workloads, results["threads"])]
    if results["skipped"]:
        lines += ["", "Not run:", "", *[f"- {name}: {reason}" for name, reason in results["skipped"].items()]]
    return "\n".join(lines) + "\n"


def write_section(path, section):
    """Puts the section between the two markers of a file."""
    text = path.read_text()
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        raise SystemExit(f"{path}: found no line {BEGIN} before a line {END}")
    path.write_text(f"{text[: begin + len(BEGIN)]}\n\n{section}\n{text[end:]}")
