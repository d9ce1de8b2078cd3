"""The numbers of secure aggregation, by the names and with the meaning of Flower's SecAggPlusWorkflow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Of two sites each knows the other's movement from the sum.
LEAST_NODES = 3


@dataclass(frozen=True)
class SecureSettings:
    """Shares and threshold are counts, or as floats shares of the nodes and of the shares."""

    num_shares: int | float
    reconstruction_threshold: int | float
    clipping_range: float
    quantization_range: int
    modulus_range: int

    def resolve(self, nodes: int) -> tuple[int, int]:
        """Into how many shares so many nodes split their secrets, an odd number or all, and how many of them are needed. Raises
        ValueError where that is no majority."""
        shares = self.num_shares
        shares = min(shares if isinstance(shares, int) else round(shares * nodes), nodes)
        if shares < nodes and shares % 2 == 0:
            shares += 1
        if shares < LEAST_NODES:
            shares = nodes
        threshold = self.reconstruction_threshold
        # A share is rounded, and half of an even number is none.
        most = shares // 2 + 1
        threshold = threshold if isinstance(threshold, int) else max(round(threshold * shares), most)
        if not shares < 2 * threshold <= 2 * shares:
            raise ValueError(
                f"reconstruction-threshold = {self.reconstruction_threshold}: that is {threshold} of {shares} shares, "
                "and it must be more than half of them and no more than all"
            )
        return shares, threshold

    def fits(self, nodes: int) -> None:
        """Raises ValueError where a sum over so many nodes can pass the modulus."""
        if nodes * self.quantization_range >= self.modulus_range:
            raise ValueError(
                f"modulus-range = {self.modulus_range}: a sum of {nodes} nodes goes up to {nodes} times "
                f"quantization-range = {self.quantization_range}; it must be above that"
            )

    @property
    def step(self) -> float:
        """What two neighbouring quantised numbers differ by."""
        return 2 * self.clipping_range / self.quantization_range


def read_secure(run_config: Mapping[str, Any], min_nodes: int) -> SecureSettings | None:
    """None: uploads go to the server as they are. Raises ValueError or TypeError, naming the key and what would be right."""
    asked = run_config.get("secure-aggregation")
    if not isinstance(asked, bool):
        raise TypeError(f"secure-aggregation = {asked!r}: it must be true or false")
    if not asked:
        return None
    if min_nodes < LEAST_NODES:
        raise ValueError(
            f"min-nodes = {min_nodes}: with secure-aggregation=true it must be {LEAST_NODES} or more; of two nodes each knows "
            "the other's movement from the sum"
        )
    clip = run_config.get("clipping-range")
    if isinstance(clip, bool) or not isinstance(clip, int | float) or not 0 < clip < float("inf"):
        raise ValueError(f"clipping-range = {clip!r}: it must be a number above 0")
    settings = SecureSettings(
        num_shares=_part(run_config, "num-shares", LEAST_NODES, 0.0),
        reconstruction_threshold=_part(run_config, "reconstruction-threshold", 2, 0.5),
        clipping_range=float(clip),
        quantization_range=_power(run_config, "quantization-range", 1 << 30),
        modulus_range=_power(run_config, "modulus-range", 1 << 32),
    )
    settings.fits(min_nodes)
    settings.resolve(min_nodes)
    return settings


def _part(run_config: Mapping[str, Any], key: str, least: int, above: float) -> int | float:
    """A count from `least`, or a share above `above`."""
    value = run_config.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    # As Flower has it, 1 is all of them.
    if isinstance(value, int | float) and not isinstance(value, bool) and above < value <= 1:
        return float(value)
    raise ValueError(
        f"{key} = {value!r}: it must be a whole number from {least}, or a share above {above} and at most 1.0"
    )


def _power(run_config: Mapping[str, Any], key: str, most: int) -> int:
    value = run_config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= most or value & (value - 1):
        raise ValueError(f"{key} = {value!r}: it must be a power of two from 2 to {most}")
    return value
