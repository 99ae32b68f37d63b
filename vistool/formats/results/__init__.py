"""The files of a run folder, and the spool for masks of a video in progress."""
