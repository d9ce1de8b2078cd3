#!/usr/bin/env python3
"""Makes one table and one JSON of what scripts/gpu/run.sh left in OUT/steps.

    table.py OUT               writes OUT/table.md and OUT/results.json, prints the table
    table.py OUT --peak bf16   prints what the card does at most in this precision, in TFLOP/s, as far as it is known

Standard library alone. A step that failed or was skipped is a row too: "not measured", with the command and why.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

NOT_MEASURED = "not measured"
# Exit statuses of `timeout`.
STOPPED = {"124": "the time limit", "137": "killed"}


def load(path):
    """A JSON file, or nothing where there is none or half of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def three(value):
    """A number with three digits that count."""
    if value >= 999.5:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def size(count):
    """Bytes in words."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{three(count / factor)} {unit}"
    return f"{count} B"


def percent(share):
    return f"{100 * share:.1f} %"


class Step:
    """One step: what was run and what came of it."""

    def __init__(self, folder, name, status, seconds, what, command):
        self.folder, self.name, self.status, self.what, self.command = folder, name, status, what, command
        self.seconds = float(seconds)
        self.json = load(folder / f"{name}.json") or load(folder / f"{name}.out")

    def last_line(self):
        """The last line that was said; of a mistake, the one that says what it is."""
        for kind in ("log", "out"):
            try:
                text = (self.folder / f"{self.name}.{kind}").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            # Hints follow a mistake; where a step was stopped, drivers may have complained long before.
            told = [line for line in lines if line.startswith("error") and self.status not in STOPPED]
            if told or lines:
                return (told or lines)[-1]
        return ""

    def why(self):
        """Why there is no figure."""
        if not self.status.lstrip("-").isdigit():
            return self.status
        word = STOPPED.get(self.status, f"rc {self.status}")
        return f"{word}: {self.last_line()}" if self.last_line() else word

    def device(self):
        """The part of a bench report that is about the device."""
        return self.json["devices"][0]


def ceiling_torch(step):
    found = step.json
    for precision, tera in found["tflops"].items():
        yield f"PyTorch's product in {precision}, {found['side']} squared", f"{three(tera)} TFLOP/s"
    yield "PyTorch's copy, read and written", f"{three(found['copy_gigabytes_per_second'])} GB/s"


def ceiling(step):
    found = step.device()["ceiling"]
    for product in found["products"]:
        yield (
            f"Burn's product in {product['precision']}, {product['side']} squared",
            f"{three(product['flops_per_second'] / 1e12)} TFLOP/s",
        )
    yield "Burn's addition, read and written", f"{three(found['bytes_per_second'] / 1e9)} GB/s"


def doctor(step):
    for device in step.json["devices"]:
        checks = device.get("checks", [])
        deciding = [check for check in checks if check.get("used", True)]
        good = sum(check["off"] is not None and check["off"] <= check["allowed"] for check in deciding)
        because = f" ({device['because']})" if device.get("because") else ""
        name = device.get("name") or device["device"]
        yield f"{step.what}: {name}", f"{device['verdict']}{because}, {good} of {len(deciding)} checks"


def self_test(step):
    for device in step.json["devices"]:
        bad = [line for line in device["lines"] if line["verdict"] != "ok"]
        made = len(device["lines"])
        said = f"{made} checks, all ok" if not bad else f"{len(bad)} of {made} checks WRONG or failed"
        if device.get("cut"):
            why = {"time-up": "the time was up", "failures": "given up"}[device["cut"]]
            said += f"; {why}, {device['checks'] - len(device['lines'])} not made"
        for line in bad[:3]:
            off = line.get("failure") or f"{line['furthest']} off {line['off']} of {line['allowed']}"
            said += f"; {line['what']} in {line['format']} ({line['shape']}): {off}"
        yield step.what, said


def share(found):
    """The share of the card's peak, where it is known."""
    return f", {percent(found['peak_fraction'])} of the peak" if found.get("peak_fraction") is not None else ""


def gemm(step):
    found = step.device()["gemm"]
    yield step.what, f"{three(found['flops_per_second'] / 1e12)} TFLOP/s{share(found)}"
    for product in found["shapes"]:
        shape = f"{found['tokens']} x {product['d_in']} x {product['d_out']} {product['direction']}"
        yield f"{step.what}: {shape}", f"{three(product['flops_per_second'] / 1e12)} TFLOP/s{share(product)}"


def step_rows(step):
    device = step.device()
    yield (
        f"{step.what}: the floor's products",
        f"{three(device['gemm']['flops_per_second'] / 1e12)} TFLOP/s{share(device['gemm'])}",
    )
    for row in device["step"]["rows"]:
        said = f"{three(row['tokens_per_second'])} tokens/s (median {three(row['tokens_per_second_median'])})"
        said += f", {percent(row['floor_fraction'])} of the floor{share(row)}"
        if row.get("peak_memory_bytes"):
            said += f", peak {size(row['peak_memory_bytes'])}"
        if row.get("reserved_memory_bytes"):
            said += ", reserved " + ", ".join(map(size, row["reserved_memory_bytes"]))
        yield f"{step.what}: {row['name']}", said


def rounds(step):
    found = step.device()["round"]
    for row in found["rounds"]:
        said = f"{three(row['seconds'])} s, {three(row['tokens_per_second'])} tokens/s"
        said += f" (probe {three(row['probe_seconds'])}, train {three(row['train_seconds'])}"
        said += f", server {three(row['server_seconds'])} s)"
        if row.get("reserved_memory_bytes"):
            said += f", reserved {size(row['reserved_memory_bytes'])}"
        warm = ", a warm-up" if row["warm_up"] else ""
        yield f"{step.what}: round {row['round']} of {row['phase']}{warm}", said


def curve(points, name):
    for point in points:
        said = f"{three(point['tokens_per_second'])} tokens/s"
        if point.get("peak_memory_bytes"):
            said += f", peak {size(point['peak_memory_bytes'])}"
        yield f"{point[name]}", point, said


def in_flight(step):
    for count, point, said in curve(step.device()["scale"]["in_flight"], "in_flight"):
        yield f"{step.what}: {count} of {point['clients']} clients", said


def scale(step):
    for count, point, said in curve(step.device()["scale"]["clients"], "clients"):
        yield f"{step.what}: {count}", f"{said}, {three(point['relative_time'])} x the time of a token with 8"


def train(step):
    found = step.json
    yield step.what, f"accuracy {found.get('final_accuracy')}, {three(found.get('train_seconds') or 0)} s of training"


def peer(step):
    text = (step.folder / f"{step.name}.out").read_text(encoding="utf-8")
    yield step.what, f"{three(float(text.split()[-1]))} tokens/s"


def reader(name):
    """What reads a step of this name."""
    exact = {
        "ceiling-torch": ceiling_torch,
        "ceiling": ceiling,
        "doctor": doctor,
        "vulkan": doctor,
        "rounds": rounds,
        "in-flight": in_flight,
        "scale": scale,
        "train": train,
    }
    begins = {"self-test": self_test, "gemm": gemm, "step": step_rows, "decoder": step_rows, "peer": peer}
    return exact.get(name) or next(of for start, of in begins.items() if name.startswith(start))


def rows_of(step):
    """`(what, result, measured)` of a step. What was said counts even where the step failed: a device found wrong is one."""
    try:
        found = [(what, said, True) for what, said in reader(step.name)(step)]
    except (KeyError, IndexError, TypeError, ValueError, OSError):
        found = []
    if step.status == "0" and found:
        return found
    if found and step.name.startswith(("doctor", "vulkan", "self-test")):
        return found
    return [(step.what, f"{NOT_MEASURED} ({step.why()})", False)]


def best(steps, name):
    """The step's rate and seconds of a run."""
    row = steps[name].device()["step"]["rows"][0]
    return row["tokens_per_second"], row["seconds"]["best"]


def derived(steps):
    """What two steps say together."""
    for precision in ("bf16", "f32", "tf32"):
        try:
            long, short = f"step-{precision}", f"step-{precision}-short"
            many, few = (steps[name].json["options"]["steps"] for name in (long, short))
            one = (best(steps, long)[1] - best(steps, short)[1]) / (many - few)
            besides = best(steps, short)[1] - few * one
            yield f"a step in {precision}, by the difference of {many} and {few}", f"{1e3 * one:.3g} ms"
            yield f"a round besides its steps in {precision}", f"{1e3 * besides:.3g} ms"
        except (KeyError, IndexError, TypeError, ZeroDivisionError):
            pass
    for name in ("peer-bf16", "peer-bf16-sliced", "peer-bf16-packed"):
        try:
            ours = best(steps, "step-bf16")[0]
            theirs = float((steps[name].folder / f"{name}.out").read_text(encoding="utf-8").split()[-1])
            yield f"Bonfire over {steps[name].what}", f"{three(ours / theirs)} x"
        except (KeyError, IndexError, TypeError, ValueError, OSError, ZeroDivisionError):
            pass


def memory(folder):
    """What the driver said of the card's memory during the rounds."""
    try:
        with (folder / "memory.csv").open(encoding="utf-8") as file:
            used = [int(row[1]) for row in csv.reader(file) if len(row) > 1]
    except (OSError, ValueError):
        return
    if used:
        quarter = max(1, len(used) // 4)
        first, last = max(used[:quarter]), max(used[-quarter:])
        said = f"{used[0]} MiB at first, {max(used)} at most, {first} in the first quarter, {last} in the last"
        yield "the card's memory during LoRA-A2's rounds, by nvidia-smi", f"{said} ({len(used)} samples)"


def peak(folder, precision):
    """TFLOP/s that a product reaches: PyTorch's, or Burn's own."""
    torch = load(folder / "ceiling-torch.out")
    if torch and precision in torch.get("tflops", {}):
        return torch["tflops"][precision]
    own = load(folder / "ceiling.json")
    for product in own["devices"][0]["ceiling"]["products"] if own else []:
        if product["precision"] == precision:
            return product["flops_per_second"] / 1e12
    return None


def read(folder):
    """What is known of the machine, and the steps by name."""
    with (folder / "machine.tsv").open(encoding="utf-8") as file:
        machine = dict(line.rstrip("\n").split("\t", 1) for line in file if "\t" in line)
    steps = {}
    with (folder / "steps.tsv").open(encoding="utf-8") as file:
        for line in file:
            fields = line.rstrip("\n").split("\t")
            if len(fields) == 5:
                steps[fields[0]] = Step(folder, *fields)
    doctor = steps.get("doctor")
    for device in (doctor.json or {}).get("devices", []) if doctor else []:
        machine["device"] = device.get("name") or device["device"]
    return machine, steps


def cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def markdown(machine, rows):
    lines = ["| what | result | command |", "|---|---|---|"]
    lines += [f"| {cell(key)} | {cell(value)} | |" for key, value in machine.items()]
    last = None
    for row in rows:
        command = f"`{cell(row['command'])}`" if row["command"] and row["command"] != last else ""
        last = row["command"] or last
        lines.append(f"| {cell(row['what'])} | {cell(row['result'])} | {command} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--peak", metavar="PRECISION")
    args = parser.parse_args()
    folder = args.out / "steps"
    if args.peak:
        found = peak(folder, args.peak)
        if found is None:
            sys.exit(f"nothing is known of the peak in {args.peak}")
        print(f"{found:.1f}" if found >= 10 else f"{found:.4g}")
        return
    try:
        machine, steps = read(folder)
    except OSError as error:
        sys.exit(f"error: {error}; {folder} is what scripts/gpu/run.sh leaves while it runs")
    rows = []
    for step in steps.values():
        for what, result, measured in rows_of(step):
            rows.append(
                {"step": step.name, "what": what, "result": result, "measured": measured, "command": step.command}
            )
    more = [*derived(steps), *memory(folder)]
    rows += [{"step": "", "what": what, "result": said, "measured": True, "command": ""} for what, said in more]
    results = {
        "machine": machine,
        "steps": [
            {
                "name": step.name,
                "status": step.status,
                "seconds": step.seconds,
                "what": step.what,
                "command": step.command,
                "result": step.json,
            }
            for step in steps.values()
        ],
        "rows": rows,
    }
    text = markdown(machine, rows)
    (args.out / "table.md").write_text(text, encoding="utf-8")
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
