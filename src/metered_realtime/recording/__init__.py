"""Recording tracks, participants and whole channels to files."""
