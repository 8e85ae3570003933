"""Looks for the traps of price lists: ``python -m mlenv_operator.lint_prices FILE… [--previous FILE]``.

Prints a line per finding. Exit code 0: none is an error; 1: one is; 2: a file cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv_operator.adapters.pricefiles import lint_with_shipped
from mlenv_operator.cost.pricefile import Severity, parse_sheet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlenv_operator.cost.pricefile import Sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m mlenv_operator.lint_prices", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="price lists to look at")
    parser.add_argument("--previous", type=Path, help="the last version: what changed too much is named")
    options = parser.parse_args(arguments)
    try:
        before = _read(options.previous).rows if options.previous else ()
        sheets = [_read(path) for path in options.files]
    except (OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"{error}: give the path of a CSV file that can be read\n")
        return 2
    found = [finding for sheet in sheets for finding in lint_with_shipped(sheet, before)]
    errors = sum(finding.severity is Severity.ERROR for finding in found)
    for finding in found:
        sys.stdout.write(f"{finding}\n")
    rows = sum(len(sheet.placed) for sheet in sheets)
    sys.stdout.write(f"{rows} rows read, {errors} errors, {len(found) - errors} warnings\n")
    return 1 if errors else 0


def _read(path: Path) -> Sheet:
    return parse_sheet(path.read_text(encoding="utf-8"), path.name)


if __name__ == "__main__":
    raise SystemExit(main())
