#!/usr/bin/env python3
"""The scale model's answer to the example of the requirement: 20 PB of memory on 3,400 nodes.

    cargo build --release && bench/requirement.py                                   minutes: each column is a run of the model
    bench/requirement.py --update docs/benchmarks.md                                and put the table there, between its marks
    bench/requirement.py --calibration bench/src/scale/calibration.json             by costs that the program was not built with

Asked are `hayate bench scale` as it is, with cores twice as fast, and with layout `writer`, too. What breaks a goal is told of the first.
"""

import json
import math
import sys
import tempfile
import time
from pathlib import Path

import bed
from bed import MIB, commit, run, table

# How the model is asked, and what that is called.
COLUMNS = {
    "striped": [],
    "cores twice as fast": ["--core-speed", 2],
    "layout `writer`, too": ["--core-speed", 2, "--writer"],
}
# The model's names of the questions, and the document's. `{arrival}` are seconds.
QUESTIONS = {
    "dump into one file": "dump into one file",
    "create by every process": "create by every process",
    "open, coming by and by": "open of one file by every process, coming within {arrival:g} s",
    "open by all at once": "the same, all at one moment",
    "drain": "drain",
}
ARRIVAL_S = 0.1
# Of files and names over servers (fs-proto).
PARTITIONS = 65_536


def ask(options, words):
    """The model's costs, and its answers by question."""
    with tempfile.TemporaryDirectory(prefix="hayate-requirement-") as box:
        out = Path(box) / "out.json"
        more = ["--calibration", options.calibration] if options.calibration else []
        more += ["--simulated", options.simulated] if options.simulated else []
        run([options.hayate, "bench", "scale", "--nodes", options.nodes, "--arrival", ARRIVAL_S * 1000, *more, *words, "--json", out])
        document = json.loads(out.read_text())
    return document["calibration"], {answer["question"]: answer for answer in document["answers"]}


def shown(answer):
    """Seconds, in bold where the goal is met."""
    seconds = answer["prediction"]["seconds"]
    digits = next((digits for least, digits in [(60, 0), (1, 1), (0.05, 2)] if seconds >= least), 3)
    text = f"{seconds:.{digits}f} s" if seconds >= 0.001 else "< 0.001 s"
    return f"**{text}**" if seconds <= answer["goalSeconds"] else text


def limit(question, answer, costs):
    """What breaks a goal, or why nothing does."""
    goal, told, machine = answer["goalSeconds"], answer["prediction"], answer["machine"]
    nodes, node = machine["nodes"], machine["node"]
    missed = told["seconds"] > goal
    more = f"{(told['balance'] - 1) * 100:.1f} % more than the mean"
    if missed and question == "dump into one file" and told["bottleneck"] == "cores":
        each = costs["write_client_us_mib"] + costs["write_server_us_mib"] + costs["forward_us_mib"]
        cores = machine["dump_bytes"] / MIB / goal * each / 1e6
        card = machine["dump_bytes"] / (node["nic_gbs"] * 1e9)
        return f"CPU time of passing bytes on: {each:.0f} us a MiB are {cores:.0f} cores; then the card, which is full at {card:.1f} s; then the fullest server, which has {more}"
    if missed and question == "drain":
        even = machine["dump_bytes"] * nodes / (machine["tier_gbs"] * 1e9)
        fullest = f"{math.ceil(PARTITIONS / nodes)} partitions of {PARTITIONS:,} instead of {PARTITIONS / nodes:.1f}"
        return f"the fullest server has {more} ({fullest}): {even:.0f} s would do"
    used = f"{told['bottleneck']}, used to {told['utilisation'] * 100:.0f} %"
    if missed:
        return used
    if told["asked"] is not None:
        return f"nothing: {told['asked']:,} of {nodes * machine['processes'] / 1e6:.1f} million opens come to the home, the server of each node answers the others"
    spread = "a wide directory spreads over all servers"
    return f"nothing: {spread if question == 'create by every process' else used}"


def main():
    parser = bed.parser(__doc__)
    parser.add_argument("--nodes", type=int, default=3400)
    parser.add_argument("--simulated", type=int, default=0, help="operations of each node at most (default: the model's)")
    parser.add_argument("--calibration", type=Path, help="costs of messages (default: those that the program was built with)")
    options = bed.parse(parser, nodes=64, simulated=8)
    asked = {}
    for name, words in COLUMNS.items():
        costs, asked[name] = ask(options, words)
        print(name, {question: answer["prediction"]["seconds"] for question, answer in asked[name].items()}, file=sys.stderr, flush=True)
    first = asked["striped"]
    rows = [
        [label.format(arrival=ARRIVAL_S), f"{first[question]['goalSeconds']:.0f} s", *(shown(answers[question]) for answers in asked.values()), limit(question, first[question], costs)]
        for question, label in QUESTIONS.items()
    ]
    where = f"{options.nodes:,} nodes; the model of commit {commit()}, {time.strftime('%Y-%m-%d')}; costs measured on {costs['machine']}."
    bed.update(options, "requirement", f"{where}\n\n{table(['question', 'goal', *COLUMNS, 'breaks by'], rows)}")


if __name__ == "__main__":
    main()
