"""What is known: an index over the archive, in SQLite or PostgreSQL, that can be made again."""
