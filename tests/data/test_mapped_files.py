"""Files that a library has mapped."""

import pyarrow as pa
import pytest

from puregen_transforms.data.mapped_files import release_files
from tests.data.memory import LISTED, resident


@pytest.mark.skipif(not LISTED.exists(), reason="memory is looked up as Linux lists it")
def test_what_a_library_has_mapped_is_given_back_and_can_be_read_again(tmp_path):
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
