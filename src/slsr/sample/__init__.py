"""The sample data set: drawn pedestrians seen by four cameras, packed exactly as Market-1501 is. Nobody is shown."""

from slsr.sample.archive import ROOT, SampleCounts, draw_archive

__all__ = ["ROOT", "SampleCounts", "draw_archive"]
