"""Speed claims, each measured against the usual way in one run."""
