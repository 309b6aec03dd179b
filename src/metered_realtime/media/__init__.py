"""Media: streams, sources, sending and receiving.

Import from the modules. This package imports none of them, because `stream` has to load where aiortc and av are not
installed, and the other modules need both.
"""
