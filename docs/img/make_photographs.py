"""Draw docs/img/photographs.jpg: photographs, what each is made into, and the one perturbation that fools all.

python examples/photographs.py --photographs 6 --precision bf16 --parts all-at-once --out photographs
python docs/img/make_photographs.py photographs/6-photographs-20-steps-bf16
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

HERE = Path(__file__).parent
FREE = [0, 1, 2, 5]
"""Those in the public domain."""
sys.path.insert(0, str(HERE.parents[1] / "examples"))


def main(folder: Path) -> None:
    """Put the photographs, the same with the perturbation of min-max at 1/255, and that perturbation in one picture."""
    import photographs

    x = photographs.photographs(6)[0][FREE]
    delta = load_file(folder / "all-at-once-1-min-max.safetensors")["delta"]
    pattern = (0.5 + delta / (2 * delta.abs().max()))[None]
    rows = [torch.cat([x, torch.ones_like(x[:1])]), torch.cat([(x + delta).clamp(0, 1), pattern])]
    sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    picture = Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).numpy())
    size = (picture.width // 2, picture.height // 2)
    picture.resize(size, Image.Resampling.LANCZOS).save(HERE / "photographs.jpg", quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
