"""Output for people: tables, pictures, progress and messages; and signals."""
