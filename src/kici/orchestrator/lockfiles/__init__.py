"""Reading repositories at one commit: lock files, commit messages, changed files (OR-60…62)."""
