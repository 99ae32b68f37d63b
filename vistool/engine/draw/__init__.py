"""Draw saved results: overlays and contact sheets."""
