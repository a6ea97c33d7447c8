"""Pictures against the real images that they should show: FID, similarity, reconstruction."""
