"""Write initial weights for a light VisTR from the backbone and transformer of a light IFC.

    python research/vistr_start.py OUTPUT --ifc ifc-lite --data FOLDER

VisTR learns slowly from random weights (the paper starts from DETR, trained on COCO), so vistr-lite
starts from an IFC with the same backbone. Both transformers encode a cell's row and column in 64
channels each; VisTR encodes the frame in 64 more, so it has 192 channels instead of 128. It gets
those queries of IFC that most often predict an instance with a high score on pictures of --data. On
these pictures, its class and box heads are trained to predict the same as IFC, because VisTR
matches queries and instances by them. The file does not have the mask layers, which stay random.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW

from vistool.config import IFCConfig, TrainConfig, VisTRConfig, from_mapping, load_toml
from vistool.models import build_model
from vistool.models.checkpoints.files import START, load_model, save_state
from vistool.models.ifc import IFC
from vistool.models.vistr import VisTR
from vistool.ops.boxes import boxes_of_masks
from vistool.ops.pixels import input_size, normalise, resize
from vistool.structures import Size

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "vistr-lite.toml"
TIME = 64  # channels for the frame, which come first
QUIET = 0.1  # factor of the random weights of channels that IFC does not have
PICTURES = ("coco/train/*.jpg", "cats/train/*.jpg", "coco-person/train/*.jpg")
CONFIDENT = 0.5  # least class probability of queries that are used to train the box head
HEAD_STEPS = 1500  # training steps of the heads, each on all pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--ifc", default="ifc-lite", help="name or file of the IFC's weights")
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--pictures", type=int, default=200, help="of each set, to train on")
    args = parser.parse_args()
    ifc = load_model(args.ifc).model
    assert isinstance(ifc, IFC)
    torch.manual_seed(0)
    files = [f for pattern in PICTURES for f in sorted(args.data.glob(pattern))[: args.pictures]]
    predicted = [ifc_predictions(ifc, read(path, ifc.config)) for path in files]
    vistr = light_vistr(ifc.config)
    object_sum = torch.stack([1 - logits.softmax(-1)[:, -1] for logits, _ in predicted]).sum(0)
    chosen = sorted(object_sum.topk(vistr.config.num_queries).indices.tolist())
    print(f"{len(files)} pictures, queries {chosen}")

    vistr.load_state_dict({**vistr.state_dict(), **transferred(ifc, vistr, chosen)})
    decoded = torch.cat([decoded_queries(vistr, read(path, ifc.config)) for path in files])
    logits = torch.cat([logits[chosen] for logits, _ in predicted])
    boxes = torch.cat([boxes[chosen] for _, boxes in predicted])
    train_heads(vistr, decoded, logits, boxes)
    fresh = ("laterals.", "mask_head.", "instance_head.")
    kept = {k: value for k, value in vistr.state_dict().items() if not k.startswith(fresh)}
    save_state(kept, vistr.config, args.output, {START: "vistr-lite"})


def read(path: Path, config: IFCConfig) -> Tensor:
    """A picture as model input, [1, 1, 3, H, W]."""
    bgr = cv2.imread(str(path))
    assert bgr is not None, path
    image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    size = input_size(
        Size(*image.shape[:2]), config.test_short_side, config.test_long_side, config.pixels
    )
    return normalise(resize(image, size)[None], config.pixels)[None]


@torch.no_grad()
def ifc_predictions(ifc: IFC, picture: Tensor) -> tuple[Tensor, Tensor]:
    """IFC's class logits [Q, K + 1] and the boxes of its masks [Q, 4]."""
    output = ifc(picture)
    return output.class_logits[0], boxes_of_masks(output.mask_logits[0] > 0)[:, 0]


@torch.no_grad()
def decoded_queries(vistr: VisTR, picture: Tensor) -> Tensor:
    """The input of VisTR's class and box heads: [Q, C]."""
    kept: list[Tensor] = []
    hook = vistr.decoder.register_forward_hook(lambda _m, _given, found: kept.append(found[-1][0]))
    vistr(picture)
    hook.remove()
    return kept[0]


def train_heads(vistr: VisTR, decoded: Tensor, logits: Tensor, boxes: Tensor) -> None:
    """Train only the class and box heads.

    Args: decoded: [N, C], their input; logits: [N, K + 1] and boxes: [N, 4], their targets.
    """
    optimizer = AdamW([*vistr.class_head.parameters(), *vistr.box_head.parameters()], lr=1e-3)
    wanted = logits.softmax(-1)
    confident = wanted[:, :-1].amax(-1) > CONFIDENT
    for step in range(HEAD_STEPS):
        class_loss = F.cross_entropy(vistr.class_head(decoded), wanted)
        box_loss = F.l1_loss(vistr.box_head(decoded[confident]).sigmoid(), boxes[confident])
        optimizer.zero_grad()
        (class_loss + 5 * box_loss).backward()
        optimizer.step()
        if (step + 1) % 300 == 0:
            print(f"{step + 1}: class {class_loss.item():.3f}, box {box_loss.item():.3f}")


def light_vistr(ifc: IFCConfig) -> VisTR:
    """A random VisTR with the settings of CONFIG, which must fit the IFC."""
    config = from_mapping(load_toml(CONFIG), TrainConfig, where=str(CONFIG)).model_config()
    assert isinstance(config, VisTRConfig)
    assert config.hidden_dim == TIME + ifc.hidden_dim
    for setting in ("class_names", "backbone", "pixels", "num_heads", "feedforward_dim"):
        assert getattr(config, setting) == getattr(ifc, setting), setting
    model = build_model(config)
    assert isinstance(model, VisTR)
    return model


def transferred(ifc: IFC, vistr: VisTR, chosen: list[int]) -> dict[str, Tensor]:
    """The tensors of VisTR that are made from IFC's."""
    theirs, ours = ifc.state_dict(), vistr.state_dict()
    wide = Widened(ifc.dim, vistr.dim, ifc.config.num_heads)
    made = {key: value for key, value in theirs.items() if key.startswith("backbone.")}
    made["project.weight"] = wide.rows(theirs["project.weight"], ours["project.weight"])
    made["project.bias"] = wide.rows(theirs["project.bias"], ours["project.bias"])
    for key, value in theirs.items():
        name = key.replace("encoder.frame_layers.", "encoder.")
        if name.startswith(("encoder.", "decoder.")) and name in ours:
            made[name] = wide.layer(name, value, ours[name])
    queries = theirs["queries.weight"][chosen]
    made["queries.weight"] = wide.columns(queries, ours["queries.weight"])
    # Queries and keys of the attention maps are those of the last cross-attention layer.
    last = f"decoder.layers.{ifc.config.decoder_layers - 1}.cross_attention.attend.in_proj_"
    for kind in ("weight", "bias"):
        query, key, _ = made[last + kind].chunk(3)
        made[f"attention_maps.query.{kind}"] = query.clone()
        made[f"attention_maps.key.{kind}"] = key.clone()
    return made


class Widened:
    """Copies IFC's channels into VisTR's; the channels of time come first and start small."""

    def __init__(self, narrow: int, width: int, heads: int) -> None:
        self.share = narrow / width
        self.same = slice(width - narrow, width)
        # IFC's channels of a head are the first channels of VisTR's head.
        self.heads = torch.arange(width).view(heads, -1)[:, : narrow // heads].flatten()

    def layer(self, name: str, value: Tensor, fresh: Tensor) -> Tensor:
        """A tensor of an encoder or decoder layer."""
        *_, module, kind = name.split(".")
        if module == "norm":
            # Small channels reduce the deviation that the norm divides by.
            factor = self.share**0.5 if kind == "weight" else 1.0
            return self.rows(value * factor, fresh * (factor if kind == "weight" else 0.0), 1.0)
        if kind in ("in_proj_weight", "in_proj_bias"):
            # The products of queries and keys are divided by the root of a head's width.
            query, key, mixed = (
                self.among_heads(part, old)
                for part, old in zip(value.chunk(3), fresh.chunk(3), strict=True)
            )
            return torch.cat([query * self.share**-0.5, key, mixed])
        if module == "out_proj":
            if kind == "bias":
                return self.rows(value, fresh)
            grown = QUIET * fresh
            grown[self.same, self.heads] = value
            return grown
        if module == "linear1":
            return value if kind == "bias" else self.columns(value, fresh)
        assert module == "linear2", name
        return self.rows(value, fresh)

    def rows(self, value: Tensor, fresh: Tensor, quiet: float = QUIET) -> Tensor:
        grown = quiet * fresh
        grown[self.same] = value
        return grown

    def columns(self, value: Tensor, fresh: Tensor) -> Tensor:
        grown = QUIET * fresh
        grown[:, self.same] = value
        return grown

    def among_heads(self, value: Tensor, fresh: Tensor) -> Tensor:
        grown = QUIET * fresh
        grown[self.heads] = value if value.ndim == 1 else self.columns(value, fresh[self.heads])
        return grown


if __name__ == "__main__":
    main()
