"""Runs a `bonfire` that was built with the feature `cuda` on a stand-in for the driver, and counts: see README.md."""

import argparse
import ctypes
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUDGETS = HERE / "budgets.json"
# Local steps of the runs that are compared.
FEW, MANY = 2, 22
# A rise above a budget that counts as one: of a step; of the rest of a round, which is a difference of larger numbers.
RISE, ROUGH_RISE = 1.05, 1.1
ARCHITECTURES = (80, 89, 90, 100, 120)
# Bonfire's own kernels, by how their names begin in `kernels/src/cube`.
OWN = tuple(
    sorted(set(re.findall(r"\bfn (\w+_kernel)\b", "\n".join(f.read_text() for f in (ROOT / "kernels/src/cube").glob("*.rs")))))
)

# Bytes that a kernel of ours is known to spill on some card, by what compiles it and the start of its name. `ptxas` gives
# registers up for workgroups side by side, and stores few enough values for it outside the inner loops: of `attend` the number
# of its first row, before all loops; of `dkv` and `dq`, which share a body, that and what is known of the tile's rows.
KNOWN_SPILLS = {
    "LLVM": {"attend_kernel_e_bf16": 12, "dq_kernel": 16, "dkv_kernel_e_f32": 8, "down_cooperative_kernel": 16},
    "NVRTC": {"dkv_kernel_e_f32": 56},
}

TINY_ENCODER = ["train", str(ROOT / "configs/quickstart.toml")]
TINY_DECODER = ["train", str(ROOT / "configs/llama-quickstart.toml")]
SMALL_RUN = ["--set", "clients.count=4", "--set", "train.epochs=1", "--set", "data.labels=8", "--set", "save.every=100"]
# Memory over rounds: all four passes of LoRA-A² (probe and training, of B and of A) are in every two rounds.
RUNS = {"encoder": TINY_ENCODER + SMALL_RUN, "decoder": TINY_DECODER + SMALL_RUN}
BASE = ["bench", "round", "--shape", "roberta-base", "--clients", "30", "--batch", "32", "--rank", "16", "--bf16"]
HOST = ["bench", "step", *BASE[2:], "--ways", "all-in-flight", "--repeats", "3"]
BUILTIN = ["bench", "round", "--shape", "builtin", "--clients", "4", "--batch", "8", "--rank", "4"]
DECODER = ["bench", "round", "--shape", "tiny-decoder", "--clients", "4", "--batch", "8", "--rank", "4"]
LLAMA = ["bench", "round", *"--shape llama-1b --clients 8 --batch 4 --lengths 64-192 --rank 16 --bf16".split()]
# Four rates, three seeds, of a federation that fills no card.
SWEEP = ["sweep", *TINY_ENCODER[1:], *SMALL_RUN, "--set", "train.rounds=2", "--set", "strategy.name=fedit"]
SWEEP += ["--set", "train.lr_a=5e-4,1e-3,2e-3,4e-3", "--seeds", "0,1,2"]
# What is compiled for every card: an encoder and a decoder, one method that trains both factors and one that alternates.
COMPILED = [
    ["bench", "round", "--shape", "builtin", "--clients", "2", "--batch", "2", "--rank", "4", "--strategy", "fedit"],
    ["bench", "round", "--shape", "tiny-decoder", "--clients", "2", "--batch", "2", "--rank", "4", "--strategy", "lora-a2"],
]
# What no benchmark launches: clipping. What clients own is f32 whatever else is.
CLIPPED = [*TINY_ENCODER, *SMALL_RUN, "--set", "train.rounds=1", "--set", "train.clip_norm=1"]
# Launches and copies a step and a round.
COUNTED = {
    "tiny encoder, fedit, f32": BUILTIN + ["--strategy", "fedit"],
    "tiny encoder, lora-a2, f32": BUILTIN + ["--strategy", "lora-a2", "--budget", "1", "--head", "frozen"],
    "tiny decoder, fedit, f32": DECODER + ["--strategy", "fedit"],
    "Llama-3.2-1B, 8 x 4, rank 16, fedit, bf16": LLAMA + ["--strategy", "fedit"],
    "RoBERTa-base, 30 x 32, rank 16, fedit, bf16": BASE + ["--strategy", "fedit"],
    "RoBERTa-base, 30 x 32, rank 16, lora-a2 budget 1, bf16": BASE
    + ["--strategy", "lora-a2", "--budget", "1", "--head", "frozen"],
}


class Faults(list):
    """What is wrong, told as it is found."""

    def note(self, text: str) -> None:
        self.append(text)
        print(f"WRONG: {text}", flush=True)


class Card:
    """A stand-in card, in a folder of its own."""

    def __init__(self, folder: Path, bonfire: Path, toolkit: Path | None) -> None:
        self.folder, self.bonfire, self.toolkit, self.runs = folder, bonfire, toolkit, itertools.count(1)
        compiler = os.environ.get("CC", "cc")
        library = folder / "libcuda.so.1"
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", library, HERE / "stand_in.c", "-lpthread"]
        subprocess.run(command, check=True)
        (folder / "libcuda.so").symlink_to(library.name)
        # It stands in for NVRTC too, in a folder of its own: a machine may have a driver alone.
        (folder / "nvrtc").mkdir()
        (folder / "nvrtc/libnvrtc.so").symlink_to(library)

    def run(self, arguments: list[str], sm: int = 90, ptx: Path | None = None, limit: int = 900, **more: str) -> "Ran":
        number = next(self.runs)
        report, out = self.folder / f"report-{number}.json", self.folder / f"run-{number}"
        environment = os.environ | {
            "LD_LIBRARY_PATH": f"{self.folder}:{self.folder / 'nvrtc'}" if self.toolkit else str(self.folder),
            "STAND_IN_REPORT": str(report),
            "STAND_IN_SM": str(sm),
            "STAND_IN_RUN": str(number),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            # A machine with a driver alone, but for NVRTC's headers where it is to compile.
            "CUDA_PATH": str(self.toolkit or self.folder / "no-toolkit"),
        }
        environment |= {"STAND_IN_PTX": str(ptx)} if ptx else {}
        environment |= more
        command = [str(self.bonfire), *arguments, "--device", "cuda"]
        command += ["--out", str(out), "--quiet"] if arguments[0] in ("train", "sweep") else ["--quiet"]

        def once() -> subprocess.CompletedProcess[str]:
            shutil.rmtree(out, ignore_errors=True)
            return subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=limit, cwd=self.folder, check=False
            )

        done = once()
        if done.returncode != 0 and admitted(Path(environment["XDG_CACHE_HOME"])):
            done = once()
        shutil.rmtree(out, ignore_errors=True)
        counts = json.loads(report.read_text()) if report.exists() else {}
        return Ran(done.returncode, done.stderr, counts, " ".join(arguments))


def admitted(cache: Path) -> bool:
    """A card that computes nothing is found wrong before the first training, and that is kept; here it is taken back. Gives
    whether there was something to take back."""
    path = cache / "bonfire/doctor.json"
    kept = json.loads(path.read_text()) if path.exists() else {"devices": {}}
    wrong = [key for key, said in kept["devices"].items() if said["verdict"] == "wrong"]
    for key in wrong:
        kept["devices"][key] = {"verdict": "good"}
    if wrong:
        path.write_text(json.dumps(kept))
    return bool(wrong)


@dataclass(frozen=True)
class Ran:
    """What came of a run: exit code, what it said, the stand-in's counts, the command."""

    code: int
    err: str
    counts: dict
    what: str

    def good(self, faults: Faults) -> bool:
        """Whether it ended well; more than one stream and launches that are refused are noted."""
        if self.code != 0 or not self.counts:
            faults.note(f"`bonfire {self.what}` ended with {self.code}: {self.err.strip()[-600:]}")
            return False
        if self.counts["bad_launches"]:
            faults.note(f"{self.what}: {self.counts['bad_launches']} launches that no card takes: {self.err[-300:]}")
        # CubeCL makes one more for transfers between cards, which one card never uses.
        if self.counts["streams_used"] != 1:
            faults.note(f"{self.what}: work goes to {self.counts['streams_used']} streams where one is wanted")
        return True


def memory_over_rounds(card: Card, faults: Faults) -> None:
    """Streams, and live bytes after two, three and four rounds."""
    print("\n| run | streams | live MB after 2, 3, 4 rounds | allocations |\n|---|---|---|---|")
    for name, run in RUNS.items():
        card.run([*run, "--set", "train.rounds=2"])  # tunes
        ran = [card.run([*run, "--set", f"train.rounds={n}"]) for n in (2, 3, 4)]
        if not all(r.good(faults) for r in ran):
            continue
        live = [r.counts["live"] for r in ran]
        shown = ", ".join(f"{bytes_ / 1e6:.1f}" for bytes_ in live)
        print(f"| {name} | {ran[-1].counts['streams_used']} | {shown} | {ran[-1].counts['allocations']} |", flush=True)
        if max(live[1:]) > live[0]:
            faults.note(f"{name}: live bytes grow from round to round: {live}")


def counted(card: Card, faults: Faults) -> dict:
    """Launches and copies a step and a round, from runs that differ in steps and rounds alone."""
    found = {}
    for name, arguments in COUNTED.items():
        def all_of(steps: int, repeats: int, arguments: list[str] = arguments) -> dict | None:
            ran = card.run([*arguments, "--steps", str(steps), "--repeats", str(repeats)], STAND_IN_SPREAD="1")
            return ran.counts if ran.good(faults) else None

        all_of(FEW, 1)  # tunes
        runs = {(s, r): all_of(s, r) for s in (FEW, MANY) for r in (1, 3)}
        if None in runs.values():
            continue
        row = {}
        # A probe does as many steps as the training it precedes; a repeat is a round of each phase, where phases alternate.
        passes, phases = (2, 2) if "lora-a2" in name else (1, 1)
        rounds = 2 * phases
        for key in ("launches", "to_device", "to_host", "stream_waits", "allocations"):
            more = {s: runs[s, 3][key] - runs[s, 1][key] for s in (FEW, MANY)}
            row[f"{key} a step"] = (more[MANY] - more[FEW]) / (rounds * (MANY - FEW) * passes)
            row[f"{key} a round besides its steps"] = more[FEW] / rounds - FEW * passes * row[f"{key} a step"]
        found[name] = row
    return found


def sweep(card: Card, faults: Faults) -> None:
    """What twelve cells ask of a card together, and one after another."""
    together, apart = SWEEP, [*SWEEP, "--side-by-side", "1"]
    for arguments in (together, apart):
        card.run(arguments)  # tunes
    ran = [card.run(arguments) for arguments in (together, apart)]
    if not all(r.good(faults) for r in ran):
        return
    print("\n| a sweep of 12 cells | launches | copies to the card | reads |\n|---|---|---|---|")
    for name, r in zip(("side by side", "one after another"), ran, strict=True):
        print(f"| {name} | {r.counts['launches']} | {r.counts['to_device']} | {r.counts['to_host']} |", flush=True)
    if 2 * ran[0].counts["launches"] > ran[1].counts["launches"]:
        faults.note("a sweep side by side asks for more than half the launches of its cells one after another")


def host_time(card: Card, faults: Faults) -> None:
    """What a step costs the host, since the device takes no time; told and not judged, as machines differ and are shared."""
    best = {}
    for steps in (8, 64):
        told = card.folder / "bench.json"
        arguments = [*HOST, "--steps", str(steps), "--json", str(told)]
        if not card.run(arguments).good(faults):
            return
        row = json.loads(told.read_text())["devices"][0]["step"]["rows"][0]
        best[steps] = row["measured"]["seconds"]["best"] if "measured" in row else row["seconds"]["best"]
    print(f"\nhost time of a step, RoBERTa-base, 30 x 32, rank 16, fedit, bf16: {1e3 * (best[64] - best[8]) / 56:.1f} ms")


def show(found: dict) -> None:
    keys = {
        "launches a step": "launches a step",
        "to_device a step": "copies to it a step",
        "to_host a step": "reads a step",
        "launches a round besides its steps": "launches a round besides",
        "to_host a round besides its steps": "reads a round besides",
        "allocations a step": "allocations a step",
    }
    print("\n| | " + " | ".join(keys.values()) + " |\n|---|" + "---|" * len(keys))
    for name, row in found.items():
        print(f"| {name} | " + " | ".join(f"{row[key]:.1f}".removesuffix(".0") for key in keys) + " |", flush=True)


def compare(found: dict, faults: Faults, update: bool) -> None:
    """Against the budgets in the repository."""
    budgets = {} if update or not BUDGETS.exists() else json.loads(BUDGETS.read_text())
    for name, row in budgets.items():
        for key, allowed in row.items():
            now = found.get(name, {}).get(key)
            rise = RISE if key.endswith("a step") else ROUGH_RISE
            if now is not None and now > allowed * rise + 0.5:
                faults.note(f"{name}: {key} rose from {allowed:g} to {now:g}")
            elif now is not None and now < allowed / rise - 0.5:
                print(f"{name}: {key} fell from {allowed:g} to {now:g}; --update keeps it")
    if update:
        # A step's share is a difference of two runs, and can come out just below nothing.
        kept = {name: {key: max(0, value) for key, value in row.items()} for name, row in found.items()}
        BUDGETS.write_text(json.dumps(kept, indent=2) + "\n")


def messages(card: Card, faults: Faults) -> None:
    """What a user reads where there is no driver, an old one, a card that is full."""
    cases = {
        "no driver": ({"LD_LIBRARY_PATH": ""}, r"driver"),
        "a driver too old": ({"STAND_IN_DRIVER": "10000"}, r"driver"),
        "a card that is full": ({"STAND_IN_MEMORY": "1000000"}, r"memory"),
    }
    if card.toolkit:
        cases["no NVRTC"] = ({"LD_LIBRARY_PATH": str(card.folder)}, r"libnvrtc.*\n.*pip install")
        cases["NVRTC without headers"] = ({"CUDA_PATH": str(card.folder)}, r"cuda_bf16\.h.*\n.*pip install")
    for name, (environment, expected) in cases.items():
        ran = card.run([*RUNS["encoder"], "--set", "train.rounds=1"], **environment)
        said = ran.err.strip()
        print(f"\n{name} (exit code {ran.code}):\n    " + "\n    ".join(said.splitlines()[-6:]), flush=True)
        if ran.code == 0 or not re.search(expected, said) or "fault of the program" in said:
            faults.note(f"{name}: not told in words: {said[-400:]}")


def compiled(card: Card, sm: int, assemble: "Assembler", faults: Faults) -> tuple[list["Assembled"], int, int]:
    """All that is compiled for a card in every precision, through ptxas; how many modules of f32 runs compute in TF32; and the
    most shared memory that a launch asked for."""
    rows, tf32, most = [], 0, 0
    for precision in ("f32", "bf16", "tf32"):
        folder = card.folder / f"ptx-{sm}-{precision}"
        folder.mkdir()
        # A cache of its own: kernels that were compiled before would not be seen otherwise.
        cache = {"XDG_CACHE_HOME": str(card.folder / f"cache-{sm}-{precision}")}
        runs = [[*run, "--steps", "1", "--repeats", "1", "--precision", precision] for run in COMPILED]
        for run in runs + ([CLIPPED] if precision == "f32" else []):
            ran = card.run(run, sm, folder, **cache)
            if ran.good(faults):
                most = max(most, ran.counts["most_shared"])
        files = sorted(folder.glob("*.ptx"))
        rows += [assemble(file) for file in files if assemble.wants(file)]
        if precision == "f32":
            tf32 = sum(bool(re.search(r"\.tf32|precision::tf32", file.read_text())) for file in files)
        shutil.rmtree(folder)
    return rows, tf32, most


def modules(card: Card, assemble: "Assembler", quick: bool, faults: Faults) -> None:
    """Every kernel that is compiled on the way, through ptxas."""
    cards = (90,) if quick else ARCHITECTURES
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(cards, pool.map(lambda sm: compiled(card, sm, assemble, faults), cards), strict=True))
    print("\n| card | kernels | of ours | refused | ours that spill | most shared memory | TF32 in f32 runs |\n|" + "---|" * 7)
    own_rows: dict[tuple[str, int], str] = {}
    known_spills = KNOWN_SPILLS["NVRTC" if assemble.compiler else "LLVM"]
    for sm, (rows, tf32, most) in found.items():
        ours = [row for row in rows if row.name.startswith(OWN)]
        for row in rows:
            if row.error:
                faults.note(f"sm_{sm}: ptxas refuses {row.name}: {row.error}")
        # The same kernel may be in runs of several precisions.
        spilling = {row.name: row for row in ours if row.spilled}
        for row in spilling.values():
            known = max((n for name, n in known_spills.items() if row.name.startswith(name)), default=0)
            if row.spilled > known:
                faults.note(f"sm_{sm}: {row.name} spills {row.spilled} bytes")
        if tf32:
            faults.note(f"sm_{sm}: {tf32} modules of f32 runs compute in TF32")
        if not ours:
            faults.note(f"sm_{sm}: none of Bonfire's own kernels was seen")
        # Of a kernel's forms for different sizes the one that spills or has the most registers.
        for row in sorted(ours, key=lambda row: (row.spilled, row.registers)):
            own_rows[re.sub(r"_[0-9a-f]{8}$", "", row.name), sm] = f"{row.registers}/{row.spilled}"
        refused = sum(bool(row.error) for row in rows)
        # A launch that asks for more than the card has is one that the stand-in refuses.
        print(f"| sm_{sm} | {len(rows)} | {len(ours)} | {refused} | {len(spilling)} | {most} | {tf32} |", flush=True)
    head = " | ".join(f"sm_{sm}" for sm in cards)
    print(f"\nBonfire's own kernels, most registers / bytes spilled:\n\n| kernel | {head} |\n|---|" + "---|" * len(cards))
    for kernel in sorted({kernel for kernel, _ in own_rows}):
        print(f"| `{kernel}` | " + " | ".join(own_rows.get((kernel, sm), "–") for sm in cards) + " |")


@dataclass(frozen=True)
class Assembled:
    """What ptxas made of a kernel; `error` is empty where it took it."""

    name: str
    error: str
    registers: int
    spilled: int


def kernel(source: str) -> str:
    """The kernel that a module of PTX or of CUDA C++ has."""
    found = re.search(r"\.entry (\w+)|__global__ .*?\b([a-z]\w*)\(", source)
    return (found.group(1) or found.group(2)) if found else "?"


class Compiler:
    """NVRTC, which makes PTX of CUDA C++."""

    def __init__(self, toolkit: Path) -> None:
        self.library = ctypes.CDLL(str(next(toolkit.glob("lib*/libnvrtc.so*"))))

    def __call__(self, source: str) -> tuple[str, str]:
        """PTX, and what is wrong where there is none. The options are those of CubeCL, which the stand-in noted."""
        lines = itertools.takewhile(lambda line: line.startswith("//-"), source.splitlines())
        options = [line.removeprefix("//").encode() for line in lines]
        program, nvrtc = ctypes.c_void_p(), self.library
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), None, 0, None, None)
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))

        def text(what: str) -> str:
            size = ctypes.c_size_t()
            getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
            room = ctypes.create_string_buffer(size.value)
            getattr(nvrtc, f"nvrtcGet{what}")(program, room)
            return room.value.decode()

        made = ("", text("ProgramLog") or f"error {failed}") if failed else (text("PTX"), "")
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
        return made


class Assembler:
    """`ptxas`, after NVRTC where kernels are CUDA C++."""

    def __init__(self, ptxas: str, toolkit: Path | None, every: bool) -> None:
        self.ptxas, self.compiler, self.every = ptxas, Compiler(toolkit) if toolkit else None, every
        # A kernel for one element type is the same in runs of several precisions.
        self.known: dict[str, tuple[str, str]] = {}

    def wants(self, file: Path) -> bool:
        """NVRTC takes seconds for a module: of CUDA C++ only Bonfire's own kernels, unless all are asked for."""
        return self.compiler is None or self.every or kernel(file.read_text()).startswith(OWN)

    def __call__(self, file: Path) -> Assembled:
        """One module, for the architecture that it names."""
        if self.compiler:
            source = file.read_text()
            if source not in self.known:
                self.known[source] = self.compiler(source)
            ptx, error = self.known[source]
            if error:
                return Assembled(kernel(source), error.strip()[:300], 0, 0)
            file.write_text(ptx)
        text = file.read_text()
        target = re.search(r"^\.target (\w+)", text, re.MULTILINE)
        arguments = ["-v", f"-arch={target.group(1) if target else 'sm_90'}", str(file), "-o", os.devnull]
        done = subprocess.run([self.ptxas, *arguments], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr

        def number(pattern: str) -> int:
            found = re.search(pattern, said)
            return int(found.group(1)) if found else 0

        error = "" if done.returncode == 0 else said.strip()[:300]
        spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
        return Assembled(kernel(text), error, number(r"Used (\d+) registers"), spilled)


def find_ptxas() -> str | None:
    """`ptxas` on the path, or of the wheel nvidia-cuda-nvcc in this Python's environment."""
    found = shutil.which("ptxas")
    wheels = (p for folder in sys.path for p in Path(folder).glob("nvidia/*/bin/ptxas"))
    return found or next((str(p) for p in wheels), None)


def find_nvrtc() -> Path | None:
    """The toolkit of the wheels nvidia-cuda-nvrtc, nvidia-cuda-runtime, nvidia-cuda-crt and nvidia-cuda-cccl, or installed."""
    wheels = (p.parent.parent for folder in sys.path for p in Path(folder).glob("nvidia/*/lib/libnvrtc.so*"))
    return next(wheels, Path(os.environ.get("CUDA_PATH", "/usr/local/cuda")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bonfire", type=Path, required=True, help="a binary built with --features cuda")
    parser.add_argument("--ptxas", default=find_ptxas(), help="ptxas [default: on the path, or of the wheel nvidia-cuda-nvcc]")
    parser.add_argument("--quick", action="store_true", help="ptxas for one architecture only")
    parser.add_argument("--nvrtc", type=Path, nargs="?", const=find_nvrtc(), metavar="TOOLKIT",
                        help="the binary was built with cuda-cpp; NVRTC and its headers lie in TOOLKIT")
    parser.add_argument("--every", action="store_true", help="with --nvrtc: compile also kernels that are not Bonfire's own")
    parser.add_argument("--update", action="store_true", help="write budgets.json")
    parser.add_argument("--only", choices=["memory", "counts", "sweep", "messages", "ptxas"], help="one part")
    args = parser.parse_args()
    faults = Faults()

    def wanted(part: str) -> bool:
        return args.only in (None, part)

    with tempfile.TemporaryDirectory() as folder:
        card = Card(Path(folder), args.bonfire.resolve(), args.nvrtc)
        if wanted("messages"):
            messages(card, faults)
        if wanted("memory"):
            memory_over_rounds(card, faults)
        if wanted("counts"):
            found = counted(card, faults)
            show(found)
            compare(found, faults, args.update)
            host_time(card, faults)
        if wanted("sweep"):
            sweep(card, faults)
        if wanted("ptxas") and args.ptxas:
            modules(card, Assembler(args.ptxas, args.nvrtc, args.every), args.quick, faults)
        elif wanted("ptxas"):
            print("SKIPPED: no ptxas; kernels were compiled to PTX and not further (pip install nvidia-cuda-nvcc)")
    print(f"\n{len(faults)} faults" if faults else "\nnothing wrong")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
