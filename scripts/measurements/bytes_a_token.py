"""Bytes that a local step moves besides its products, a token, by what each kernel reads and writes (nothing runs).

    python scripts/measurements/bytes_a_token.py

Counted is every tensor that a kernel reads or writes, once from beginning to end, in bf16 unless said; one that several kernels
read counts for each. Not counted: what fits in caches (factors, tables, masks), frozen products, embedding, head and loss.
"""

from dataclasses import dataclass

HALF, FULL = 2, 4


@dataclass(frozen=True)
class Linear:
    """Linears that share an input, as one product: features read, features written, and slots of all adapters."""

    d_in: int
    d_out: int
    slots: int


def linear(of: Linear, trains: str, residual: bool, gelu: str) -> dict[str, tuple[float, float]]:
    """Forward and backward of what adapters add; `trains` of "A", "B", both; `residual`: the input goes on past the linear;
    `gelu`: it stands "after" the linear, "before" it or nowhere."""
    h = of.slots * FULL
    outer = 0
    if "A" in trains:
        outer += of.d_in * HALF + h  # x, dy·Bᵀ
    if "B" in trains:
        outer += of.d_out * HALF + h  # dy, x·Aᵀ
    # Forward writes GELU of the result beside it; backward reads what GELU was given, for the slope.
    return {
        "down": (of.d_in * HALF + h, of.d_out * HALF + h),
        "up, with bias, residual or GELU": (
            (2 + (gelu == "after")) * of.d_out * HALF + h,
            (2 + residual + (gelu == "before")) * of.d_in * HALF + h,
        ),
        "gradients of factors": (0, outer),
    }


def roberta_base(rank: int, trains: str) -> dict[str, tuple[float, float]]:
    """A layer of 768 features, 3072 inside, 12 heads, adapters on all six linears."""
    d, inside, heads = 768, 3072, 12
    linears = [
        (Linear(d, 3 * d, 3 * rank), True, ""),
        (Linear(d, d, rank), False, ""),
        (Linear(d, inside, rank), True, "after"),
        (Linear(inside, d, rank), False, "before"),
    ]
    rows: dict[str, tuple[float, float]] = {}
    for of, residual, gelu in linears:
        for name, (forward, backward) in linear(of, trains, residual, gelu).items():
            before = rows.get(name, (0, 0))
            rows[name] = (before[0] + forward, before[1] + backward)
    # Queries, keys, values and result; backward: result and dy for the rows' sums, and q, k, v, dy twice, dq, dk, dv once.
    lse, stats = heads * FULL, 2 * heads * FULL
    rows["attention"] = (4 * d * HALF + lse, 2 * d * HALF + lse + stats + 2 * (4 * d * HALF + stats) + 3 * d * HALF)
    rows["residual norms"] = (2 * 4 * d * HALF, 2 * 3 * d * HALF)
    return rows


def main() -> None:
    for name, rank, trains in (("FedIT", 16, "AB"), ("LoRA-A², a factor trains", 16, "B")):
        rows = roberta_base(rank, trains)
        print(f"RoBERTa-base, rank {rank}, {name}: KB a token and layer\n\n| | forward | backward |\n|---|---:|---:|")
        for what, (forward, backward) in rows.items():
            print(f"| {what} | {forward / 1e3:.1f} | {backward / 1e3:.1f} |")
        sums = [sum(row[way] for row in rows.values()) for way in (0, 1)]
        print(f"| sum | {sums[0] / 1e3:.1f} | {sums[1] / 1e3:.1f} |")
        print(f"\n12 layers: {12 * sum(sums) / 1e6:.2f} MB a token\n")


if __name__ == "__main__":
    main()
