"""report.py RESULTS FOLDER MACHINE: results as a Markdown table, and the data of the plot."""

import json
import sys


def main(results, folder, machine):
    with open(results) as file:
        lines = [json.loads(line) for line in file]
    sizes = [line for line in lines if line["case"] == "the state's bytes"]
    lines = [line for line in lines if line not in sizes]
    ours = {key(line): line for line in lines if line["who"] == "armorer"}
    table = [
        f"{machine}. Medians; the ratio is armorer's time to the other's, by the wall clock and by CPU.",
        "",
        "| Where | Case | Profiles | Who | Time | CPU | armorer's part: time, CPU | Programs | System calls "
        "| Syncs | Written | Memory: itself, largest process |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for line in lines:
        cells = [line["where"], line["case"], f"{line['n']:,}", line["who"]]
        cells += [seconds(line["wall"]), seconds(line["cpu"]), ratio(ours.get(key(line)), line)]
        cells += [whole(line.get(name)) for name in ["processes", "calls", "syncs"]]
        cells += [kib(line.get("written"), 1024), memory(line)]
        table.append(f"| {' | '.join(cells)} |")
    if sizes:
        words = [f"{line['wall'] / 1024:,.0f} KiB at {line['n']:,} profiles" for line in sizes]
        table += ["", f"The state file: {', '.join(words)}."]
    table += ["", *slopes(ours.values()), ""]
    with open(f"{folder}/table.md", "w") as file:
        file.write("\n".join(table))
    plot_data(lines, folder)


def key(line):
    return line["where"], line["case"], line["n"]


def ratio(ours, line):
    if ours is None or line["who"].startswith("armorer"):
        return ""
    parts = [ours[unit] / line[unit] if line[unit] else 0 for unit in ("wall", "cpu")]
    return ", ".join(f"{part:.2f}" for part in parts)


def seconds(value):
    return f"{value * 1000:,.1f} ms" if value < 1 else f"{value:,.2f} s"


def whole(value):
    return "" if value is None else f"{value:,}"


def kib(value, unit=1):
    return "" if value is None else f"{value / unit:,.1f} KiB"


def memory(line):
    if "own KiB" not in line:
        return ""
    # A command that starts nothing may be over before it is sampled; then the kernel's word is all.
    own = line["own KiB"] if line["processes"] > 1 else line["largest KiB"]
    return f"{own / 1024:.1f}, {line['largest KiB'] / 1024:.1f} MiB"


def slopes(ours):
    """CPU a profile more, by the smallest and the largest number of profiles of each case."""
    cases = {}
    for line in ours:
        cases.setdefault((line["where"], line["case"]), []).append((line["n"], line["cpu"]))
    for (where, case), points in sorted(cases.items()):
        points.sort()
        (first, low), (last, high) = points[0], points[-1]
        if first < last:
            slope = (high - low) / (last - first)
            middle = [f"{cpu / n * 1e6:,.0f} µs at {n:,}" for n, cpu in points]
            yield f"- {where}, {case}: {slope * 1e6:,.0f} µs of CPU a further one ({', '.join(middle)} each)."


def plot_data(lines, folder):
    """Armorer beside the others: a colour for each case, and a dashed line for each other program."""
    shared = {key(line)[:2] for line in lines if line["who"] != "armorer"}
    curves = {}
    for line in lines:
        if key(line)[:2] in shared:
            curve = curves.setdefault((*key(line)[:2], line["who"]), [])
            curve.append(f"{line['n']} {line['cpu'] * 1000}")
    cases = sorted(shared)
    with open(f"{folder}/plot.gnuplot", "w") as plot:
        plots = []
        for index, ((where, case, who), points) in enumerate(sorted(curves.items())):
            print(f"$curve{index} << END", *points, "END", sep="\n", file=plot)
            style = "lw 3 pt 7" if who == "armorer" else f"lw 2 dt {2 + index % 2} pt {4 + 2 * (index % 3)}"
            plots.append(f"$curve{index} with linespoints lc {1 + cases.index((where, case))} {style} title '{where}, {case}: {who}'")
        print(
            "set terminal svg size 800,680 font 'sans,15' background 'white'\nset output 'plot.svg'\n"
            "set logscale xy\nset xlabel 'profiles'\nset ylabel 'CPU, ms'\nset grid\nset key below height 2 Left reverse\n"
            f"plot {', '.join(plots)}",
            file=plot,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
