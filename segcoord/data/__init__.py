"""From files on disk to batches: layouts, reading, augmentation, loading, and our own sample."""
