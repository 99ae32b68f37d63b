"""Count the visible objects of each class, while the video is still being read.

python examples/count_as_it_plays.py street.mp4 [MODEL]
"""

import sys
from collections import Counter

import vistool

model = sys.argv[2] if len(sys.argv) > 2 else "ifc-lite"
shown = None
for frame in vistool.track(sys.argv[1], model=model, conf=0.4):
    counts = Counter(frame.class_names.tolist())
    if counts != shown:
        shown = counts
        print(f"{frame.time:6.2f} s: {dict(sorted(counts.items())) or 'nothing'}")
