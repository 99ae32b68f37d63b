"""Segment and track a video, and list its tracks.

python examples/predict_a_video.py street.mp4 [MODEL]
"""

import sys
from pathlib import Path

import vistool

source = Path(sys.argv[1])
model = sys.argv[2] if len(sys.argv) > 2 else "ifc-lite"

with vistool.predict(source, model=model, conf=0.3, clip_stride=3) as video:
    for track in video.tracks:
        first, last = video.times[track.frames[0]], video.times[track.frames[-1]]
        print(
            f"{track.class_name} {track.id}: score {track.score:.2f}, {first:.1f} s to {last:.1f} s"
        )
    folder = video.save(source.with_name(f"{source.stem}-tracks"), exist_ok=True)
    print(f"{len(video.frames)} frames, {len(video.tracks)} tracks; look at {folder}/overlay.mp4")
