"""The sample data set: drawn pedestrians seen by four cameras, in the layout of Market-1501. It shows nobody."""

from slsr.sample.drawn_archive import README_TITLE, ROOT, SampleCounts, draw_archive

__all__ = ["README_TITLE", "ROOT", "SampleCounts", "draw_archive"]
