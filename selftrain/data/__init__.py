"""From files to batches: samples, centroids, the epoch's plan, crops."""
