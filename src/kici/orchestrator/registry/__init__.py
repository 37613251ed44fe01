"""The workflows of each repository's default branch (OR-70…75)."""
