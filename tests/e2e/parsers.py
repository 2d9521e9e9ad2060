#!/usr/bin/env python3
"""Whether scripts that read the output of IOR, mdtest and IO500 read ours.

    parsers.py IOR.txt IOR.json MDTEST.txt IO500-RESULT.txt

IOR.txt and IOR.json are of one run with -w and -r by three tasks in one shared file, and -k, so that there is no `remove`. Two kinds of readers:

- published packages as they are, where they are installed: ior-parser (text), compspec-ior (JSON), iops-benchmark (the parsers in its templates for IOR's JSON
  and IO500's result file). What is missing is named in the output;
- the rules of scripts that are no packages, written down again: which line they look for, how they cut it, what they take from it. Each names its source.

Left out are scripts for output that IOR 4 and mdtest 4 do not print any more (IOR 2 and 3.0; mdtest's `SUMMARY rate:` and names with colons): they do not read the
originals' output either.
"""

import argparse
import csv
import datetime
import importlib.util
import io
import json
import re
import sys
from pathlib import Path

# A published IOR run's heading of the summary, as scripts of radix-io/io-sleuthing (examples/striping/get-stripe-dat.sh) repeat it.
SUMMARY = (
    "Operation   Max(MiB)   Min(MiB)  Mean(MiB)     StdDev   Max(OPs)   Min(OPs)  Mean(OPs)     StdDev    Mean(s) Stonewall(s) Stonewall(MiB) Test# #Tasks tPN reps "
    "fPP reord reordoff reordrand seed segcnt   blksiz    xsize aggs(MiB)   API RefNum"
)


def akrr(text):
    """ubccr/akrr, akrr/parsers/ior_parser.py: the version in the first line."""
    version = re.match(r"^IOR-([3-9]\.[0-9]+\.[0-9]+\S*): MPI Coordinated Test of Parallel I/O", text.splitlines()[0])
    assert version and version[1].startswith("4."), text.splitlines()[0]


def daos(text):
    """daos-stack/daos, src/tests/ftest/util/ior_utils.py, get_ior_metrics: the line `Summary of all tests:` alone, a heading, the line of writing and that of reading,
    whose columns have fixed numbers."""
    lines = text.splitlines()
    at = lines.index("Summary of all tests:")
    write, read = lines[at + 2].split(), lines[at + 3].split()
    for name, line in [("write", write), ("read", read)]:
        assert line[0] == name and len(line) == 27, line
        largest, smallest, mean, seconds = float(line[1]), float(line[2]), float(line[3]), float(line[9])
        assert largest >= mean >= smallest > 0 and seconds > 0, line
        assert line[13] == "3" and line[16] == "0" and line[25] == "HAYATE", line


def perfkit(text):
    """GoogleCloudPlatform/PerfKitBenchmarker, linux_packages/ior.py: what lies between the summary's title and `Finished`, as CSV with single blanks; of its columns
    those that IOR still has."""
    part = re.search(r"Summary of all tests:\n(.*?)Finished", text, re.DOTALL)[1]
    rows = list(csv.DictReader(io.StringIO(re.sub(" +", " ", part)), delimiter=" "))
    assert [row["Operation"] for row in rows] == ["write", "read"], rows
    for row in rows:
        assert row["#Tasks"] == "3" and row["segcnt"] == "2" and row["xsize"] == "65536" and row["API"] == "HAYATE", row
        assert float(row["Mean(MiB)"]) > 0 and float(row["Mean(OPs)"]) > 0, row


def heading(text):
    assert SUMMARY in text.splitlines(), "the summary has another heading"


def klockwood(text):
    """The reader of IOR 3.3 and later by G. K. Lockwood (class IorOutput): labels of 20 columns, a date as C prints it, a heading of the results whose
    names are zipped with the words of each line."""
    lines = text.splitlines()
    labels = {line[:20].strip(): line[21:].strip() for line in lines if line[20:22] == ": "}
    assert (labels["nodes"], labels["tasks"], labels["clients per node"]) == ("1", "3", "3"), labels
    assert labels["ordering in a file"] == "sequential" and labels["xfersize"] == "65536 bytes" and labels["aggregate filesize"] == "6 MiB", labels
    for label in ["StartTime", "Finished"]:
        datetime.datetime.strptime(labels[label], "%a %b %d %H:%M:%S %Y")
    at = lines.index("Results: ")
    names = next(line for line in lines[at + 1 :] if line.startswith("access")).split()
    rows = [dict(zip(names, line.split(), strict=True)) for line in lines[at:] if re.match(r"(write|read) +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9]+ *$", line)]
    assert [row["access"] for row in rows] == ["write", "read"], rows
    for row in rows:
        assert float(row["bw(MiB/s)"]) > 0 and row["iter"] == "0" and float(row["total(s)"]) >= float(row["wr/rd(s)"]), row
        # sudhirupreti/IOR_MDTest_FIO_Scripts, run_ior_mdtest-v3.py.
        best = re.search(rf"Max {row['access'].title()}:\s+([\d\.]+)\s+(\w+/s)", text)
        assert abs(float(best[1]) - float(row["bw(MiB/s)"])) <= 0.01 * float(best[1]), (best, row)


# "Pydantic Models for IOR", a reader of IOR 4's JSON that insists on keys and types. Here: int, float, str; int is a float, too.
PARAMETERS = {
    int: "testID refnum deadlineForStonewall stoneWallingWearOut maxTimeDuration outlierThreshold dryRun nodes memoryPerTask memoryPerNode tasksPerNode repetitions "
    "multiFile interTestDelay fsync fsyncperwrite useExistingTestFile uniqueDir singleXferAttempt readFile writeFile filePerProc reorderTasks reorderTasksRandom "
    "reorderTasksRandomSeed randomOffset checkWrite checkRead dataPacketType keepFile keepFileWithError warningAsErrors verbose "
    "setTimeStampSignature/incompressibleSeed collective segmentCount transferSize blockSize",
    str: "api platform testFileName options",
}
OPTIONS = {
    int: "segments|nodes|tasks|clients per node|repetitions",
    str: "api|apiVersion|test filename|access|type|ordering in a file|ordering inter file|memoryBuffer|dataAccess|GPUDirect|xfersize|blocksize|aggregate filesize",
}
RESULT = {float: "bwMiB blockKiB xferKiB iops latency openTime wrRdTime closeTime totalTime", str: "access"}
SUMMARIES = {
    int: "TestID ReferenceNumber segmentCount blockSize transferSize numTasks tasksPerNode repetitions filePerProc reorderTasks taskPerNodeOffset reorderTasksRandom "
    "reorderTasksRandomSeed",
    float: "bwMaxMIB bwMinMIB bwMeanMIB bwStdMIB OPsMax OPsMin OPsMean OPsSD MeanTime xsizeMiB",
    str: "operation API",
}


def typed(document, keys, separator=None):
    for kind, names in keys.items():
        for name in names.split(separator):
            value = document[name]
            fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
            assert fits, f"{name} is {value!r}, not {kind.__name__}"


def pydantic_models(document):
    for key in ["Began", "Finished"]:
        datetime.datetime.strptime(document[key], "%a %b %d %H:%M:%S %Y")
    for test in document["tests"]:
        datetime.datetime.strptime(test["StartTime"], "%a %b %d %H:%M:%S %Y")
        typed(test["Parameters"], PARAMETERS)
        typed(test["Options"], OPTIONS, "|")
        for size in ["xfersize", "blocksize", "aggregate filesize"]:
            number, unit = test["Options"][size].split()
            assert float(number) > 0 and unit in ("bytes", "MiB", "GiB"), test["Options"][size]
        for result in test["Results"]:
            typed(result, RESULT)
            assert result["access"] in ("read", "write"), result["access"]
    for summary in document["summary"]:
        typed(summary, SUMMARIES)


def mdtest(text):
    """sudhirupreti/IOR_MDTest_FIO_Scripts, run_ior_mdtest-v3.py: after `SUMMARY rate` and a heading, lines of five columns at least two blanks apart; and the
    first lines as mdtest 4.1 prints them."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if "SUMMARY rate" in line)
    assert lines[at + 1].strip().startswith("Operation"), lines[at + 1]
    found = {}
    for line in lines[at + 3 :]:
        if line.strip() == "" or line.strip().startswith("--"):
            break
        name, *numbers = re.split(r"\s{2,}", line.strip())
        assert len(numbers) == 4, line
        found[name] = [float(number) for number in numbers]
    assert set(found) == {"File creation", "File stat", "File read", "File removal", "Tree creation", "Tree removal"}, found
    assert all(largest >= mean >= smallest > 0 for largest, smallest, mean, _ in found.values()), found
    assert re.search(r"^mdtest-(\S+) was launched with 3 total task\(s\) on 1 node\(s\)$", text, re.M)
    assert re.search(r"^3 tasks, 150 files$", text, re.M)
    datetime.datetime.strptime(re.search(r"^-- finished at (.*) --$", text, re.M)[1], "%m/%d/%Y %H:%M:%S")


def ior_parser(path):
    from ior_parser import parse_ior_log

    read = parse_ior_log(path)
    assert set(read.results) == {"write", "read"}, read.results
    # It does not know IOR's unit `bytes`, in which IOR has sizes below a MiB.
    assert read.options.tasks == 3 and read.options.block_size_bytes == 1 << 20 and read.options.aggregate_file_size_bytes == 6 << 20, read.options
    assert read.results["write"].bandwidth_mib_max > 0 and read.results["read"].time_seconds_mean > 0, read.results
    assert read.test_setup.ior_version.startswith("4.") and read.test_setup.file_system_info.total_size_bytes > 0, read.test_setup
    assert read.test_times.elapsed_seconds >= 0, read.test_times


def compspec_ior(path):
    from compspec_ior.plugin import Plugin

    flat = Plugin.load_metadata(None, json.loads(path.read_text()))
    assert flat["summary.write.numTasks"] == 3 and flat["test.0.results.0.access"] == "write", flat
    assert any(key.startswith("test.0.inodes") for key in flat), sorted(flat)


def iops(ior_json, io500):
    """The functions `parse` in templates of the package, each of which is a text in YAML."""
    templates = Path(importlib.util.find_spec("iops").origin).parent / "setup/templates"

    def parse(template, path):
        text = (templates / template).read_text()
        script = re.search(r"^( *)parser_script: \|\n((?:\1 +.*\n|\s*\n)+)", text, re.M)[2]
        indent = min(len(line) - len(line.lstrip()) for line in script.splitlines() if line.strip())
        names = {}
        exec("\n".join(line[indent:] for line in script.splitlines()), names)  # noqa: S102
        return names["parse"](str(path))

    assert parse("ior_local.yaml", ior_json)["bwMiB"] > 0
    result = parse("io500_slurm.yaml", io500)
    assert all(float(result[key].split()[0]) > 0 for key in ["SCORE", "BW", "MD"]), result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["ior_text", "ior_json", "mdtest_text", "io500_result"]:
        parser.add_argument(name, type=Path)
    files = parser.parse_args()
    text, document = files.ior_text.read_text(), json.loads(files.ior_json.read_text())
    for rule in [akrr, daos, perfkit, heading, klockwood]:
        rule(text)
    pydantic_models(document)
    mdtest(files.mdtest_text.read_text())
    print("rules of 8 published scripts")
    packages = {
        "ior_parser": lambda: ior_parser(files.ior_text),
        "compspec_ior": lambda: compspec_ior(files.ior_json),
        "iops": lambda: iops(files.ior_json, files.io500_result),
    }
    for name, read in packages.items():
        if importlib.util.find_spec(name):
            read()
            print(f"package {name}")
        else:
            print(f"MISSING: package {name}")


if __name__ == "__main__":
    sys.exit(main())
