"""Offer and answer: the negotiator, session descriptions, signals, and what each remote is sent."""
