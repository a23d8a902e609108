"""What Longseal tells people."""
