"""Where evidence is kept for years: write-once stores, leaves, and packs of evidence."""
