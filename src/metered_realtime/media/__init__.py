"""Media: streams, sources, bounded readers and recording.

Import from the modules. This file imports none of them, because `stream` has to load where aiortc and av are
not installed and the others load both.
"""
