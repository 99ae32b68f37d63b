"""The files of a run folder, and the spool that holds masks until a video is done."""
