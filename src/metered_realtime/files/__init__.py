"""File transfers between peers."""
