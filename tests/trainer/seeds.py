"""What chance depends on; told in the header of every run."""

from __future__ import annotations

import os
from typing import Final

MATRIX: Final = int(os.environ.get("MLENV_MATRIX_SEED", "1"))
"""Which cases stand for all pairs of the crash matrix."""
STORE: Final = int(os.environ.get("MLENV_STORE_SEED", "1"))
"""Which cases stand for all pairs of the matrix of losses."""
