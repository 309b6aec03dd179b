"""Who is who, and what they write to each other."""
