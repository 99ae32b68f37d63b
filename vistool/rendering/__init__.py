"""Pictures, charts and pages made of results, without torch."""
