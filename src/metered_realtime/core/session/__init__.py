"""The session with the signalling server: connecting, requests, subscriptions, resuming and renewing."""
