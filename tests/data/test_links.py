"""Links are followed within a folder, and out of it on demand alone."""

from __future__ import annotations

import os

import pytest

from puregen_transforms.data.links import check_links, problem_of_link


@pytest.fixture
def top(tmp_path):
    (tmp_path / "top/inner").mkdir(parents=True)
    (tmp_path / "top/inner/a").write_text("a")
    (tmp_path / "private").write_text("private")
    return tmp_path / "top"


def test_links_within_the_folder_are_no_problem(top):
    (top / "link").symlink_to("inner/a")
    assert problem_of_link(top / "link", top) is None
    assert problem_of_link(top / "inner/a", top) is None
    check_links(top)


def test_links_out_of_it_are_followed_on_demand(top):
    (top / "link").symlink_to(top.parent / "private")
    assert "--follow-links" in problem_of_link(top / "link", top)
    with pytest.raises(ValueError, match="link: it is a link out of the folder"):
        check_links(top)
    assert problem_of_link(top / "link", top, follow_links=True) is None
    check_links(top, follow_links=True)


@pytest.mark.parametrize("target", ["/proc/self/environ", "/dev/zero"])
def test_files_of_the_system_never_are(top, target):
    (top / "link").symlink_to(target)
    for follow_links in (False, True):
        assert "never followed" in problem_of_link(top / "link", top, follow_links=follow_links)


def test_pipes_are_refused_and_hidden_files_not_looked_at(top):
    os.mkfifo(top / ".pipe")
    check_links(top)
    os.mkfifo(top / "inner/pipe")
    with pytest.raises(ValueError, match="pipe is neither"):
        check_links(top)
