"""pyarrow's functions on columns, which it defines when it is imported, so that type checkers know none of them."""

from __future__ import annotations

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute
