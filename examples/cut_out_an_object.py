"""Save the highest-scoring object of a video as pictures, with everything else black.

python examples/cut_out_an_object.py street.mp4 [MODEL]
"""

import sys
from pathlib import Path

import cv2

import vistool

source = Path(sys.argv[1])
model = sys.argv[2] if len(sys.argv) > 2 else "ifc-lite"
folder = source.with_name(f"{source.stem}-cut-out")
folder.mkdir(exist_ok=True)

with vistool.predict(source, model=model, conf=0.0) as video:
    if not video.tracks:
        raise SystemExit("no tracks")
    track = video.tracks[0]  # the highest-scoring one
    for position in track.frames:
        frame = video.frames[position]
        (mask,) = frame.masks[frame.track_ids == track.id]
        image = frame.image
        image[~mask] = 0
        cv2.imwrite(str(folder / f"{frame.index:05}.png"), image[..., ::-1])
    print(f"{track.class_name} on {len(track.frames)} of {len(video.frames)} frames: {folder}")
