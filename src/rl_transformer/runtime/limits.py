"""The limits on what files may declare. They are far above what this library writes, and are checked before anything is built."""

from __future__ import annotations

from typing import NamedTuple


class Limit(NamedTuple):
    """A largest number, and what it counts."""

    most: int
    what: str


# An integer of 300 digits is a float; one of 309 is not, and converting it is an error far from the file.
LIMITS = {
    "json_bytes": Limit(64 * 2**20, "bytes of a JSON file"),
    "yaml_bytes": Limit(2**20, "bytes of a YAML file"),
    "yaml_values": Limit(20_000, "values in a YAML file"),
    "yaml_depth": Limit(20, "nested lists and mappings in a YAML file"),
    "digits": Limit(300, "digits of a number in a JSON or YAML file"),
    "tensor_header_bytes": Limit(16 * 2**20, "bytes of the header of a safetensors file"),
    "npy_header_bytes": Limit(10_000, "bytes of the header of a .npy file"),
    "shards": Limit(10_000, "shards of a store"),
    "child_bytes": Limit(4 * 2**30, "bytes of memory of a process that reads an HDF5 or table file"),
    "child_seconds": Limit(30, "seconds in which it must come to a result, and one more for every MiB of the file"),
    "table_columns": Limit(20_000, "columns of a table"),
    "pickled_instructions": Limit(20_000_000, "instructions in a pickled file"),
    "pickled_stack": Limit(1_000_000, "values that wait on the stack of a pickled file"),
    "n_layer": Limit(1_000, "transformer blocks of a policy"),
    "hidden_size": Limit(65_536, "width of a policy's tokens"),
    "context_length": Limit(100_000, "timesteps of a policy's context"),
    "table_rows": Limit(10_000_000, "rows of a policy's timestep table"),
}
"""All limits, by name; docs/security.md shows this table."""
