import pytest

from storyboard import show
from tests.conftest import picture


@pytest.mark.parametrize(
    ("count", "columns", "rows"),
    [
        (1, 1, 1),
        (2, 2, 1),
        (3, 3, 1),
        (4, 2, 2),
        (7, 4, 2),
        (8, 4, 2),
        (9, 3, 3),
        (12, 4, 3),
        (64, 8, 8),
    ],
)
def test_the_grid_follows_the_number_of_panels(count, columns, rows):
    sheet = show.grid([picture(i, 32) for i in range(count)])
    assert sheet.size == (
        columns * 32 + (columns + 1) * show.GAP,
        rows * 32 + (rows + 1) * show.GAP,
    )


def test_every_panel_stands_at_its_place():
    pictures = [picture(i, 32) for i in range(8)]
    sheet = show.grid(pictures)
    x, y = show.GAP + 1 * (32 + show.GAP), show.GAP + (32 + show.GAP)
    assert sheet.crop((x, y, x + 32, y + 32)).tobytes() == pictures[5].tobytes()


def test_html_is_escaped():
    assert "<script>" not in show.table("t", ["a"], [["<script>alert(1)</script>"]])


def test_progress_is_printed_ten_times_at_most(capsys):
    with show.Live("train", 100) as live:
        for step in range(1, 101):
            live.step(step, loss=1.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("train: 100%|")
    assert "100/100 [00:00<00:00," in lines[-1] and lines[-1].endswith("loss=1.0000]")


def test_a_gallery_names_pictures_on_hover_and_cannot_be_broken_by_a_caption(tmp_path):
    picture(1, 32).save(tmp_path / "1.png")
    page = show.gallery([(tmp_path / "1.png", "a 'girl' <b>")])
    assert "<figure title='a &#x27;girl&#x27; &lt;b&gt;' " in page and "<b>" not in page
