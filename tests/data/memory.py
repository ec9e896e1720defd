"""How much of a mapped file is held in memory."""

import re
from pathlib import Path

LISTED = Path("/proc/self/smaps")
"""Where Linux lists it."""


def resident(path: Path) -> int:
    """Sum up what this process holds of a file, in KiB."""
    found, ours = 0, False
    for line in LISTED.read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found
