"""Predict: videos in, tracks out, as files or frame by frame."""
