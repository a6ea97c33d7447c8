"""An inspection as one HTML page, with its pictures inside and without scripts."""

from collections import Counter
from pathlib import Path

from vlv.data.inspection.inspecting import Inspection
from vlv.data.inspection.summary import histograms, summary
from vlv.data.remote.locations import shown_name
from vlv.files import write_text
from vlv.html import data_uri, render
from vlv.text import printable

# Refused images that the page names.
_NAMED = 50


def write_page(path: Path, source: Path, found: Inspection, spoken: Counter[str]) -> None:
    """Write the page of a dataset."""
    figures = summary(found, spoken)
    plots = histograms(found)
    page = render(
        "vlv.data.inspection",
        "inspection.html.j2",
        source=shown_name(source),
        figures=figures,
        total=found.total,
        plots=[one for one in plots.values() if one.bins],
        spoken=spoken.most_common(12),
        refused=found.refused_first[:_NAMED],
        more=sum(found.refused.values()) - len(found.refused_first[:_NAMED]),
        pictures=[
            (printable(name), one, data_uri("a.jpg", one.jpeg))
            for name, one in found.pictures.items()
        ],
    )
    write_text(path, page)
