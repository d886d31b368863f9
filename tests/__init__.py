"""What a reader can trust, and why."""
