"""From conversations to packed numpy batches, the same for both backends."""
