"""Pictures made of results: masks, contours and labels on frames; numpy and OpenCV only."""
