"""Files that a library has mapped."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from puregen_transforms.data.mapped_files import release_files


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="memory is looked up as Linux lists it")
def test_what_a_library_has_mapped_is_given_back_and_can_be_read_again(tmp_path):
    def resident(path):
        found, ours = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                ours = line.endswith(str(path))
            elif ours and line.startswith("Rss:"):
                found += int(line.split()[1])
        return found

    path, content = tmp_path / "with space.bin", bytes(range(256)) * 4096
    path.write_bytes(content)
    with pa.memory_map(str(path)) as file:
        view = memoryview(file.read_buffer())
        assert bytes(view) == content
        assert resident(path) > 512
        release_files({str(tmp_path / "other.bin")})
        assert resident(path) > 512
        release_files({str(path)})
        assert resident(path) == 0
        assert bytes(view) == content
