from io import StringIO

import pytest
from rich.console import Console

from puregen_transforms.cli.progress import Rate, _Lines, shown_progress


class TestRate:
    @pytest.fixture
    def rate(self):
        def rate(*reports):
            times = iter([time for time, _ in reports])
            found = Rate(clock=lambda: next(times))
            for _, done in reports:
                found.add(done)
            return found

        return rate

    def test_nothing_is_claimed_before_anything_is_done(self, rate):
        assert rate((0, 0)).a_second is None
        assert str(rate((0, 0))) == "--/s"

    def test_recent_work_counts(self, rate):
        slow_then_fast = [(second, second) for second in range(100)] + [(100 + k, 100 + 5 * k) for k in range(1, 80)]
        assert rate(*slow_then_fast).a_second == pytest.approx(5)

    def test_slow_work_has_a_rate_too(self, rate):
        found = rate((0, 0), (150, 1), (300, 2))
        assert found.a_second == pytest.approx(1 / 150)
        assert str(found) == "2 min each"
        assert found.left(10) == pytest.approx(1500)


def test_a_log_file_gets_one_line_at_the_end():
    file = StringIO()
    with shown_progress(Console(file=file)) as show:
        for done in range(0, 1001, 10):
            show("purifying", done, 1000)
        show("judging", 3, None)
    first, second = file.getvalue().splitlines()
    assert first.startswith("purifying: 1,000 of 1,000, ")
    assert second == "judging: 3"


def test_a_log_file_gets_lines_at_intervals():
    file = StringIO()
    lines = _Lines(Console(file=file), every=0.0)
    for done in (0, 4, 8):
        lines("purifying", done + 2, 12, kept=2, note="well")
    lines.close()
    found = file.getvalue().splitlines()
    assert [line.split(",")[0] for line in found] == ["purifying: 2 of 12", "purifying: 6 of 12", "purifying: 10 of 12"]
    assert all(line.endswith(", well") for line in found)
    assert "left" in found[2]


def test_a_terminal_gets_bars():
    file = StringIO()
    with shown_progress(Console(file=file, force_terminal=True, width=120)) as show:
        show("purifying", 0, 10)
        show("purifying", 10, 10, note="done")
    assert "purifying" in file.getvalue()
    assert "10/10" in file.getvalue()
