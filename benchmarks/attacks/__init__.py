"""What attacks cost the process that they are aimed at, beside an honest third whose messages go on.

    python -m benchmarks.attacks                      # every attack
    python -m benchmarks.attacks sdp_feedback         # some of them
    python -m benchmarks.attacks --source OLDER/src   # the same attacks on another version, to compare

Each module of this package but `stage` lists its attacks in a dict `ATTACKS`: a name, and a coroutine that takes a
`Stage`.
"""
